/* The load client: many WebSocket connections in one thread, so cheap that it is not what is
 * measured (floor.c shows how much it takes).
 *
 *     client PORT COUNT TOPIC [name=value ...]
 *
 * TOPIC may hold one %d, the connection's number. It connects, joins (V1) and prints "joined".
 * Then it counts the changes that come, checks that the ids of each connection grow by one,
 * and notes how long after its commit_timestamp each arrived. It does not sleep until nothing
 * has come for a while, or the server would spend more on waking it than a network costs. While it
 * looks into nothing, it reads each 0.1 ms what has come, and leaves the processor to others in
 * between, as clients on other machines do. On standard input it takes
 *
 *     expect N    print "expecting"; then "done" and the microseconds since this line when every
 *                 connection that reads has N more changes, or "closed" and how many of them the
 *                 server has closed before
 *     report      print one line of JSON of what came since the last report
 *     cut         break all connections, as a network does that fails; print "cut"
 *     leave       close all connections, as a page does that goes (1001); print "left" when the
 *                 server has closed them, too
 *     back N      connect and join again, all at once; print "joined" and the microseconds since
 *                 this line when all have joined, then "done", as after "expect N"
 *     discard N   from now on count the changes that come, and look into none (1); or as before (0);
 *                 print "so". The next one that is looked into shows whether the count was right.
 *     quit
 *
 * Options: stalled=K: the first K connections stop reading once they have joined; idle=1: do not
 * join; deflate=1: offer permessage-deflate (compressed changes are counted, not looked into);
 * heartbeat=MS: each connection that reads sends a heartbeat that often, as real clients do, their
 * turns spread over the interval (not with deflate); probe=MS: a further connection, which joins
 * nothing, does. The times until the replies are noted by themselves. sessions=1: each connection
 * names a session of its own, as a client does that wants to be known when it comes back.
 * config=1: join with an empty config, as a member of the topic's room that gets no changes.
 * inflight=N: how many connections may be on their way at once, 64 if it is not given. arrival=1:
 * what is noted is when the system got a change, as on another machine, where nobody waits for these
 * cores; so it is enough to read each millisecond what has come.
 *
 * The variable APIKEY holds the token that every connection shows, if any. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

enum { ROOM = 4 << 20, AWAKE_US = 300, LOOK_US = 100, SELDOM_US = 1000 };

typedef struct {
    int fd, joined, upgraded, stalled, probes, ref;
    long changes, expected, id;
    double heartbeat_sent;
    size_t kept_size;
    char *kept;
} Connection;

typedef struct {
    uint32_t *values;
    size_t size, room;
} Samples;

static char *room;
static int epoll_fd, count, stalled, idle, deflate, heartbeat_ms, probe_ms, sessions, config, arrival,
    port;
static int in_flight = 64, all, opened, is_back, was_cut, discards;
static long joined_now, leaving, missing;
static long frames, compressed, bytes, disorder, repeated, closed_early;
static const char *topic;
static Samples latencies, heartbeats, probes;
static double expect_since, back_since, first_at, last_at;
static Connection *connections;

static void note(Samples *samples, double value) {
    if (samples->size == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 65536;
        samples->values = realloc(samples->values, samples->room * sizeof(uint32_t));
        if (!samples->values) die("realloc");
    }
    samples->values[samples->size++] = value < 0 ? 0 : (uint32_t)value;
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void print_samples(const char *name, Samples *samples) {
    size_t size = samples->size;
    if (!size) return;
    qsort(samples->values, size, sizeof(uint32_t), ascending);
    printf(", \"%s_us\": {\"n\": %zu, \"p50\": %u, \"p99\": %u, \"max\": %u}", name, size,
           samples->values[size / 2], samples->values[(size_t)((double)size * 0.99)],
           samples->values[size - 1]);
    samples->size = 0;
}

static void send_text(Connection *connection, const char *text) {
    char frame[4096];
    size_t size = strlen(text), head = size < 126 ? 6 : 8;
    frame[0] = (char)0x81;
    if (size < 126) {
        frame[1] = (char)(0x80 | size);
    } else {
        frame[1] = (char)(0x80 | 126);
        frame[2] = (char)(size >> 8);
        frame[3] = (char)size;
    }
    memset(frame + head - 4, 0, 4); /* a mask of zeros changes nothing */
    memcpy(frame + head, text, size);
    if (send(connection->fd, frame, head + size, MSG_NOSIGNAL) != (ssize_t)(head + size))
        die("send");
}

static void open_connection(Connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    char request[4096], session[64] = "";
    const char *apikey = getenv("APIKEY");
    int on = 1, small = 4096;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->fd < 0) die("socket");
    if (connection->stalled)
        setsockopt(connection->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (arrival) setsockopt(connection->fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    if (sessions)
        snprintf(session, sizeof session, "session=load-client-%d-%d&", (int)getpid(),
                 (int)(connection - connections));
    snprintf(request, sizeof request,
             "GET /socket/websocket?%s%s%s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
             "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n%s"
             "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
             session, apikey ? "apikey=" : "", apikey ? apikey : "",
             deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
                     : "");
    if (send(connection->fd, request, strlen(request), 0) < 0) die("send");
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event)) die("epoll_ctl");
}

static void became_ready(Connection *connection) {
    connection->joined = 1;
    if (connection->stalled) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    if (++joined_now < all || is_back) return;
    is_back = 1;
    printf("joined %.0f\n", back_since ? now(CLOCK_MONOTONIC) - back_since : 0.0);
    fflush(stdout);
}

static void upgraded(Connection *connection) {
    char text[2048], name[1024];
    connection->upgraded = 1;
    if (idle || connection->probes) {
        became_ready(connection);
        return;
    }
    snprintf(name, sizeof name, topic, (int)(connection - connections));
    snprintf(text, sizeof text,
             "{\"topic\":\"%s\",\"event\":\"phx_join\",\"ref\":\"%d\",\"payload\":{%s}}", name,
             /* Stock clients count over their whole life, whatever becomes of a connection. */
             ++connection->ref, config ? "\"config\":{}" : "");
    send_text(connection, text);
}

static int two(const char *digits) { return (digits[0] - '0') * 10 + digits[1] - '0'; }

/* The microseconds of a day that a commit timestamp names, -1 without one. */
static double commit_time(const char *data, size_t size) {
    static const char name[] = "\"commit_timestamp\":";
    const char *at = memmem(data, size, name, sizeof name - 1);
    if (!at || size - (size_t)(at - data) < 60) return -1;
    /* PostgreSQL's JSON has a space there. By hand: sscanf() would look for the end of all that was
     * read. */
    at += sizeof name - 1;
    at += (*at == ' ') + sizeof "\"2026-11-24T" - 1;
    double second = two(at + 6), unit = 0.1;
    for (const char *digit = at + 9; *digit >= '0' && *digit <= '9'; digit++, unit /= 10)
        second += (*digit - '0') * unit;
    return ((two(at) * 60.0 + two(at + 3)) * 60.0 + second) * 1e6;
}

static void message(Connection *connection, const char *data, size_t size, int is_compressed,
                    double read_at) {
    static const char record[] = "\"record\":", id_name[] = "{\"id\":", phoenix[] = "\"topic\":\"phoenix\"";
    static const double day = 86400e6;
    if (!connection->joined) {
        if (!is_compressed && !memmem(data, size, "\"status\":\"ok\"", 13)) {
            fprintf(stderr, "no join: %.*s\n", (int)size, data);
            exit(1);
        }
        became_ready(connection);
        return;
    }
    /* The one reply that has no other topic; what it is in stands at its beginning. */
    if (connection->heartbeat_sent && !is_compressed &&
        memmem(data, size < 200 ? size : 200, phoenix, sizeof phoenix - 1)) {
        note(connection->probes ? &probes : &heartbeats,
             now(CLOCK_MONOTONIC) - connection->heartbeat_sent);
        connection->heartbeat_sent = 0;
        return;
    }
    if (is_compressed) {
        compressed++;
    } else if (discards) {
        connection->id++;
    } else {
        double committed = commit_time(data, size);
        const char *at = memmem(data, size, record, sizeof record - 1);
        if (committed < 0 || !at) return;
        double age = read_at - committed;
        note(&latencies, age < -day / 2 ? age + day : age);
        at += sizeof record - 1;
        at += (*at == ' ') + sizeof id_name - 1;
        long id = atol(at + (*at == '"'));
        if (was_cut && id <= connection->id) {
            repeated++;
            return;
        }
        if (connection->id && id != connection->id + 1 && !strchr(topic, '%')) disorder++;
        connection->id = id;
    }
    if (!frames) first_at = now(CLOCK_MONOTONIC);
    frames++;
    connection->changes++;
    if (connection->changes == connection->expected && --missing == 0) {
        printf("done %.0f\n", now(CLOCK_MONOTONIC) - expect_since);
        fflush(stdout);
    }
}

static void end(Connection *connection) {
    close(connection->fd);
    connection->fd = -1;
    connection->upgraded = connection->joined = 0;
    connection->heartbeat_sent = 0;
    connection->kept_size = 0;
}

/* What the last close frame says. */
static char why_closed[160] = "without a close frame";

static void note_close(const char *data, size_t size) {
    if (size < 2) return;
    int code = (unsigned char)data[0] << 8 | (unsigned char)data[1];
    snprintf(why_closed, sizeof why_closed, "%d %.*s", code, (int)size - 2, data + 2);
}

/* Tell that what is expected cannot come any more, if a connection that waits for it is closed. */
static void tell_closed(void) {
    int closed = 0;
    for (int each = 0; each < count; each++)
        closed += connections[each].fd < 0 && connections[each].changes < connections[each].expected;
    if (!closed) return;
    printf("closed %d\n", closed);
    fflush(stdout);
}

static void lost(Connection *connection) {
    if (!connection->joined || !is_back) {
        fprintf(stderr, "closed before %s had joined: %s; %ld of %d had\n",
                connection->joined ? "all" : "it", why_closed, joined_now, all);
        exit(1);
    }
    end(connection);
    joined_now--;
    if (!leaving) {
        closed_early++;
        tell_closed();
    } else if (--leaving == 0) {
        printf("left\n");
        fflush(stdout);
    }
}

static void pong(Connection *connection, const char *data, size_t size) {
    char frame[6 + 125] = {(char)0x8a, (char)(0x80 | size)};
    memcpy(frame + 6, data, size);
    if (send(connection->fd, frame, 6 + size, MSG_NOSIGNAL) < 0) lost(connection);
}

/* Take all whole frames; return how many bytes they are. */
static size_t take(Connection *connection, const char *data, size_t size, double read_at) {
    size_t at = 0;
    if (!connection->upgraded) {
        const char *end = memmem(data, size, "\r\n\r\n", 4);
        if (!end) return 0;
        if (memcmp(data, "HTTP/1.1 101", 12)) {
            fprintf(stderr, "no handshake: %.*s\n", (int)size, data);
            exit(1);
        }
        at = (size_t)(end - data) + 4;
        upgraded(connection);
    }
    while (size - at >= 2) {
        const unsigned char *head = (const unsigned char *)data + at;
        size_t begin = 2, length = head[1] & 0x7f;
        if (length == 126) begin = 4;
        if (length == 127) begin = 10;
        if (size - at < begin) break;
        if (begin > 2) {
            length = 0;
            for (size_t place = 2; place < begin; place++) length = length << 8 | head[place];
        }
        if (size - at < begin + length) break;
        if ((head[0] & 0x0f) == 1)
            message(connection, data + at + begin, length, head[0] & 0x40, read_at);
        if ((head[0] & 0x0f) == 8) note_close(data + at + begin, length);
        if ((head[0] & 0x0f) == 9) pong(connection, data + at + begin, length);
        at += begin + length;
    }
    return at;
}

/* Read what has come, and when; on a clock as CLOCK_REALTIME. */
static ssize_t receive(int fd, char *data, size_t size, double *at) {
    union {
        char bytes[CMSG_SPACE(sizeof(struct timespec))];
        struct cmsghdr head;
    } control;
    struct iovec into = {data, size};
    struct msghdr what = {.msg_iov = &into, .msg_iovlen = 1};
    if (arrival) {
        what.msg_control = control.bytes;
        what.msg_controllen = sizeof control.bytes;
    }
    ssize_t got = recvmsg(fd, &what, 0);
    struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&what) : NULL;
    if (head && head->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec time;
        memcpy(&time, CMSG_DATA(head), sizeof time);
        *at = microseconds(time);
    } else {
        *at = now(CLOCK_REALTIME);
    }
    return got;
}

static void readable(Connection *connection) {
    double read_at;
    size_t kept = connection->kept_size;
    /* It was cut since it had something to read. */
    if (connection->fd < 0) return;
    if (kept) memcpy(room, connection->kept, kept);
    ssize_t got = receive(connection->fd, room + kept, ROOM - kept, &read_at);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        lost(connection);
        return;
    }
    bytes += got;
    read_at -= 86400e6 * (double)(long)(read_at / 86400e6);
    size_t size = kept + (size_t)got, taken = take(connection, room, size, read_at);
    if (connection->fd < 0) return;
    connection->kept_size = size - taken;
    if (size - taken) {
        connection->kept = realloc(connection->kept, size - taken);
        if (!connection->kept) die("realloc");
        memcpy(connection->kept, room + taken, size - taken);
    }
    last_at = now(CLOCK_MONOTONIC);
}

static void report(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"frames\": %ld, \"compressed\": %ld, \"bytes\": %ld, \"disorder\": %ld, "
           "\"repeated\": %ld, \"closed\": %ld, \"seconds\": %.6f, \"client_cpu\": %.3f",
           frames, compressed, bytes, disorder, repeated, closed_early, (last_at - first_at) / 1e6,
           cpu);
    print_samples("latency", &latencies);
    print_samples("heartbeat", &heartbeats);
    print_samples("probe", &probes);
    printf("}\n");
    fflush(stdout);
    frames = compressed = bytes = disorder = repeated = 0;
}

static void expect(long more) {
    expect_since = now(CLOCK_MONOTONIC);
    missing = count - stalled;
    for (int each = stalled; each < count; each++)
        connections[each].expected = connections[each].changes + more;
}

static void say(const char *what) {
    printf("%s\n", what);
    fflush(stdout);
}

static void cut(void) {
    struct linger at_once = {1, 0};
    was_cut = 1;
    for (int each = 0; each < count; each++) {
        if (connections[each].fd < 0) continue;
        setsockopt(connections[each].fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        end(&connections[each]);
        joined_now--;
    }
    say("cut");
}

static void leave(void) {
    static const char going_away[] = {(char)0x88, (char)0x82, 0, 0, 0, 0, 0x03, (char)0xe9};
    leaving = count;
    for (int each = 0; each < count; each++) {
        /* What it gets from now on has nothing to do with what it got. */
        connections[each].id = 0;
        if (send(connections[each].fd, going_away, sizeof going_away, MSG_NOSIGNAL) < 0)
            die("send");
    }
}

static void come_back(long more) {
    expect(more);
    back_since = expect_since;
    opened = 0;
    is_back = 0;
}

static int command(void) {
    static char line[256];
    static size_t size;
    ssize_t got = read(0, line + size, sizeof line - size);
    if (got <= 0) return 0;
    size += (size_t)got;
    for (char *end; (end = memchr(line, '\n', size));) {
        *end = 0;
        if (!strncmp(line, "expect ", 7)) {
            expect(atol(line + 7));
            say("expecting");
            tell_closed();
        }
        if (!strcmp(line, "cut")) cut();
        if (!strcmp(line, "leave")) leave();
        if (!strncmp(line, "back ", 5)) come_back(atol(line + 5));
        if (!strcmp(line, "report")) report();
        if (!strncmp(line, "discard ", 8)) {
            discards = atoi(line + 8);
            say("so");
        }
        if (!strcmp(line, "quit")) return 0;
        size -= (size_t)(end + 1 - line);
        memmove(line, end + 1, size);
    }
    return 1;
}

static void beat(Connection *connection) {
    /* One that has not been answered yet is waited for. */
    if (connection->heartbeat_sent || !connection->joined || connection->stalled) return;
    char text[128];
    snprintf(text, sizeof text,
             "{\"topic\":\"phoenix\",\"event\":\"heartbeat\",\"ref\":\"%d\",\"payload\":{}}",
             ++connection->ref);
    connection->heartbeat_sent = now(CLOCK_MONOTONIC);
    send_text(connection, text);
}

/* The next of all connections has its turn whenever the timer fires. */
static void all_beat(int timer) {
    static int next;
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0) return;
    while (expirations--) beat(&connections[next++ % count]);
}

static void probe(int timer) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) > 0) beat(&connections[count]);
}

/* Start a timer that fires so often; what it points to is how it is known. */
static void start_timer(int *timer, double milliseconds) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = timer};
    struct timespec each = {(time_t)(milliseconds / 1e3),
                            (long)(milliseconds * 1e6) % 1000000000L};
    struct itimerspec period = {each, each};
    *timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (*timer < 0 || timerfd_settime(*timer, 0, &period, NULL)) die("timer");
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, *timer, &event);
}

static int option(const char *argument, const char *name, int *value) {
    size_t size = strlen(name);
    if (strncmp(argument, name, size) || argument[size] != '=') return 0;
    *value = atoi(argument + size + 1);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: client PORT COUNT TOPIC [name=value ...]\n");
        return 2;
    }
    port = atoi(argv[1]);
    count = atoi(argv[2]);
    topic = argv[3];
    for (int each = 4; each < argc; each++)
        if (!option(argv[each], "stalled", &stalled) && !option(argv[each], "idle", &idle) &&
            !option(argv[each], "deflate", &deflate) &&
            !option(argv[each], "heartbeat", &heartbeat_ms) &&
            !option(argv[each], "probe", &probe_ms) &&
            !option(argv[each], "sessions", &sessions) && !option(argv[each], "config", &config) &&
            !option(argv[each], "arrival", &arrival) &&
            !option(argv[each], "inflight", &in_flight)) {
            fprintf(stderr, "unknown option %s\n", argv[each]);
            return 2;
        }
    if (heartbeat_ms && deflate) {
        fprintf(stderr, "a deflated reply looks like a deflated change: no heartbeat with deflate\n");
        return 2;
    }
    int heartbeat_timer = -1, probe_timer = -1;
    all = count + (probe_ms > 0);
    room = malloc(ROOM);
    connections = calloc((size_t)all, sizeof *connections);
    epoll_fd = epoll_create1(0);
    if (!room || !connections || epoll_fd < 0) die("start");
    for (int each = 0; each < stalled; each++) connections[each].stalled = 1;
    if (probe_ms) connections[count].probes = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &epoll_fd}, events[1024];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);

    /* Those that join first send heartbeats before the last has joined, or a slow machine's server
     * takes them for dead. */
    if (heartbeat_ms) start_timer(&heartbeat_timer, (double)heartbeat_ms / count);
    for (int has_begun = 0;;) {
        while (opened < all && opened - joined_now < in_flight) {
            /* One that only probes stays where it is. */
            if (!connections[opened].upgraded) open_connection(&connections[opened]);
            opened++;
        }
        if (is_back && !has_begun) {
            has_begun = 1;
            heartbeats.size = 0;
            if (probe_ms) start_timer(&probe_timer, probe_ms);
        }
        int rests = arrival || discards, looks = rests && missing;
        int awake = looks || (!rests && now(CLOCK_MONOTONIC) - last_at < AWAKE_US);
        struct timespec look = {.tv_nsec = (arrival ? SELDOM_US : LOOK_US) * 1000L};
        if (looks) nanosleep(&look, NULL);
        int ready = epoll_wait(epoll_fd, events, 1024, awake ? 0 : -1);
        for (int each = 0; each < ready; each++) {
            void *what = events[each].data.ptr;
            if (what == &epoll_fd) {
                if (!command()) return 0;
            } else if (what == &heartbeat_timer) {
                all_beat(heartbeat_timer);
            } else if (what == &probe_timer) {
                probe(probe_timer);
            } else {
                readable(what);
            }
        }
    }
}
