/* Lets identities use models, each in its hours. What no argument allows is denied.
 *
 *   [[policy.plugins]]
 *   name = "models"
 *   path = "/etc/orchd/plugins/models.wasm"
 *   sha256 = "..."                        # sha256sum models.wasm
 *   decides = ["admission"]
 *   args = ["uid:1000=*", "proxy:ada=hf:acme/@08:00-18:30", "*=mock:lorem"]
 *
 * IDENTITY=MODEL[@HH:MM-HH:MM]: * is everybody, or every model; otherwise an identity is compared as
 * a whole, and a model by its beginning. Hours are the machine's, up to and without the second; from
 * 22:00-06:00 is over midnight. The clock is a part of the question: a plugin has none.
 */
#include "orchd_policy.h"

/* Minutes since midnight of HH:MM; -1: it is none. */
static int minutes(orchd_str text) {
  orchd_str after;
  orchd_u64 hour, minute;
  orchd_str before = str_until(text, ':', &after);
  if (!str_number(before, &hour) || !str_number(after, &minute)) return -1;
  return hour > 24 || minute > 59 ? -1 : (int)(hour * 60 + minute);
}

/* 1 inside the hours, 0 outside, -1: they are none. */
static int open_at(orchd_str hours, orchd_u32 now) {
  orchd_str end_text;
  orchd_str begin_text = str_until(hours, '-', &end_text);
  int begin = minutes(begin_text), end = minutes(end_text), at = (int)now;
  if (begin < 0 || end < 0) return -1;
  return begin <= end ? begin <= at && at < end : begin <= at || at < end;
}

static const orchd_answer *policy_decide(const orchd_question *asked) {
  if (asked->what != ORCHD_ADMISSION) return allow("");
  int closed = 0;
  for (orchd_u32 i = 0; i < asked->args_count; i++) {
    orchd_str model, hours, who = str_until(asked->args[i], '=', &model);
    model = str_until(model, '@', &hours);
    if (who.len == 0 || model.len == 0) return deny("an argument is not IDENTITY=MODEL");
    int open = hours.len == 0 ? 1 : open_at(hours, asked->minute_of_day);
    if (open < 0) return deny("an argument has hours that are not HH:MM-HH:MM");
    if (!str_equal(who, STR("*")) && !str_equal(who, asked->identity)) continue;
    if (!str_equal(model, STR("*")) && !str_begins(asked->model_ref, model)) continue;
    if (open) return allow("the model is this identity's");
    closed = 1;
  }
  if (closed) return deny("the model is this identity's at other hours");
  return deny("the model is not this identity's");
}
