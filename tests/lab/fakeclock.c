/* A wall clock that a test can move, for programs in a machine whose kernel has only one.
 *
 * CLOCK_REALTIME has no namespace: to set it would set the host's. Preloaded, this answers for it with
 * the kernel's time and as many seconds more as $FAKE_CLOCK (else /opt/fakeclock/offset) says, read
 * anew at every call; no file: none. Every other clock is the kernel's. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define DEFAULT_FILE "/opt/fakeclock/offset"

static long long offset(void) {
    const char *path = getenv("FAKE_CLOCK");
    char text[32] = "";
    int file = open(path ? path : DEFAULT_FILE, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return 0;
    if (read(file, text, sizeof text - 1) < 0)
        text[0] = 0;
    close(file);
    return atoll(text);
}

API int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += offset();
    return failed;
}

API int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec wall;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &wall);
    now->tv_sec = wall.tv_sec;
    now->tv_usec = wall.tv_nsec / 1000;
    return 0;
}

API time_t time(time_t *out) {
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    if (out)
        *out = wall.tv_sec;
    return wall.tv_sec;
}
