/* What the load clients have in common. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* End with what has failed, and why. */
static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline double microseconds(struct timespec time) {
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

/* Return the microseconds of a clock. */
static inline double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return microseconds(time);
}
