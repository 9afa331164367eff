/* The SDK for policy plugins of orchd, ABI version 1: include it, define policy_decide(), done.
 *
 *   clang --target=wasm32 -O2 -ffreestanding -nostdlib -fvisibility=hidden -Wall -Wextra -Werror \
 *     -I /usr/share/orchd/sdk -Wl,--no-entry -Wl,-z,stack-size=16384 -o hosts.wasm hosts.c
 *
 * A plugin may import nothing, so there is no libc; loops over what is here end by themselves. What
 * the fields mean, and the layout for other languages, is in specs/18-policy.md. Licence: Apache-2.0.
 */
#ifndef ORCHD_POLICY_H
#define ORCHD_POLICY_H

typedef unsigned int orchd_u32;
typedef unsigned long long orchd_u64;

/* UTF-8, without a zero at the end. */
typedef struct {
  const char *at;
  orchd_u32 len;
} orchd_str;

enum { ORCHD_OUTBOUND = 1, ORCHD_ADMISSION = 2 };
#define ORCHD_UNKNOWN_SIZE (~0ULL)

typedef struct {
  orchd_u32 abi;
  orchd_u32 what; /* ORCHD_OUTBOUND or ORCHD_ADMISSION */
  orchd_u64 size_bytes; /* of the whole answer, or ORCHD_UNKNOWN_SIZE */
  orchd_u64 time_unix_s;
  orchd_u32 minute_of_day; /* 0 to 1439 */
  orchd_u32 weekday; /* 0 is Monday */
  orchd_u32 port;
  orchd_u32 max_tokens;
  orchd_u32 ctx;
  orchd_u32 args_count;
  const orchd_str *args; /* the words of the configuration */
  orchd_u32 reserved;
  orchd_str identity, purpose, scheme, host, path, via, model_ref, engine, workload, priority;
} orchd_question;

typedef struct {
  orchd_u32 verdict; /* 1 allow, 2 deny */
  orchd_str reason;
} orchd_answer;

_Static_assert(sizeof(orchd_question) == 136, "the layout of version 1");
_Static_assert(sizeof(orchd_answer) == 12, "the layout of version 1");

/* What a plugin defines: return allow("...") or deny("..."). The reason is for the journal. */
static const orchd_answer *policy_decide(const orchd_question *question);

static orchd_answer orchd_answered;

#define allow(reason) orchd_says(1, "" reason, sizeof(reason) - 1)
#define deny(reason) orchd_says(2, "" reason, sizeof(reason) - 1)

static inline const orchd_answer *orchd_says(orchd_u32 verdict, const char *at, orchd_u32 len) {
  orchd_answered.verdict = verdict;
  orchd_answered.reason.at = at;
  orchd_answered.reason.len = len;
  return &orchd_answered;
}

/* A string literal as orchd_str. */
#define STR(text) ((orchd_str){"" text, sizeof(text) - 1})

static inline int str_equal(orchd_str a, orchd_str b) {
  if (a.len != b.len) return 0;
  for (orchd_u32 i = 0; i < a.len; i++)
    if (a.at[i] != b.at[i]) return 0;
  return 1;
}

static inline int str_begins(orchd_str text, orchd_str with) {
  return text.len >= with.len && str_equal((orchd_str){text.at, with.len}, with);
}

static inline int str_ends(orchd_str text, orchd_str with) {
  return text.len >= with.len &&
         str_equal((orchd_str){text.at + text.len - with.len, with.len}, with);
}

/* What follows the first `at` bytes of a string that has them. */
static inline orchd_str str_from(orchd_str text, orchd_u32 at) {
  return (orchd_str){text.at + at, text.len - at};
}

/* The part before the first `mark`, and in *rest what follows it; all of it and "" without one. */
static inline orchd_str str_until(orchd_str text, char mark, orchd_str *rest) {
  for (orchd_u32 i = 0; i < text.len; i++)
    if (text.at[i] == mark) {
      *rest = str_from(text, i + 1);
      return (orchd_str){text.at, i};
    }
  *rest = (orchd_str){text.at + text.len, 0};
  return text;
}

/* A decimal number in *value; 0 for what is none, or has more than 18 digits. */
static inline int str_number(orchd_str text, orchd_u64 *value) {
  *value = 0;
  if (text.len == 0 || text.len > 18) return 0;
  for (orchd_u32 i = 0; i < text.len; i++) {
    if (text.at[i] < '0' || text.at[i] > '9') return 0;
    *value = *value * 10 + (orchd_u64)(text.at[i] - '0');
  }
  return 1;
}

/* What orchd calls. */
#define ORCHD_EXPORT(name) __attribute__((export_name(name), visibility("default")))

static _Alignas(8) char orchd_room[32 << 10]; /* the largest question that orchd asks */

ORCHD_EXPORT("orchd_abi_version") orchd_u32 orchd_abi_version(void) { return 1; }

ORCHD_EXPORT("orchd_alloc") void *orchd_alloc(orchd_u32 size) {
  return size <= sizeof(orchd_room) ? orchd_room : 0;
}

ORCHD_EXPORT("orchd_decide") const orchd_answer *orchd_decide(const orchd_question *question) {
  return policy_decide(question);
}

#endif
