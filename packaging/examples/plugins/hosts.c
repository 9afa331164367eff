/* Lets requests go to hosts below some domains only, and only for answers up to a size.
 *
 *   [[policy.plugins]]
 *   name = "hosts"
 *   path = "/etc/orchd/plugins/hosts.wasm"
 *   sha256 = "..."                        # sha256sum hosts.wasm
 *   args = ["suffix=.hf.co", "suffix=huggingface.co", "max_mb=200000"]
 *
 * A suffix with a dot before it is every name below that domain, one without is that name. What it
 * is not asked about it allows; args that it cannot read deny everything: a typing error opens
 * nothing. The command that builds it is at the top of orchd_policy.h.
 */
#include "orchd_policy.h"

static const orchd_answer *policy_decide(const orchd_question *asked) {
  if (asked->what != ORCHD_OUTBOUND) return allow("");
  int known_host = 0;
  orchd_u64 max_bytes = ORCHD_UNKNOWN_SIZE, number;
  for (orchd_u32 i = 0; i < asked->args_count; i++) {
    orchd_str value, name = str_until(asked->args[i], '=', &value);
    if (str_equal(name, STR("suffix")) && value.len > 0) {
      int below = value.at[0] == '.';
      if (below ? str_ends(asked->host, value) : str_equal(asked->host, value)) known_host = 1;
    } else if (str_equal(name, STR("max_mb")) && str_number(value, &number) && number < 1 << 30) {
      max_bytes = number << 20;
    } else {
      return deny("an argument is neither suffix=DOMAIN nor max_mb=NUMBER");
    }
  }
  if (!known_host) return deny("the host is below none of the suffixes");
  if (asked->size_bytes != ORCHD_UNKNOWN_SIZE && asked->size_bytes > max_bytes)
    return deny("it is larger than max_mb");
  return allow("a host that is known");
}
