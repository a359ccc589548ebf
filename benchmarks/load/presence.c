/* The load client of presence: many members of one room, each with a connection, in one thread.
 *
 *     presence PORT COUNT TOPIC
 *
 * It connects, joins nothing, and prints "open". On standard input it takes
 *
 *     join MS       join one after the other, spread over so many milliseconds; each tracks itself
 *                   as soon as its join is answered. When everybody knows of everybody, print
 *                   "known" and the microseconds since the last of them has tracked itself
 *     change N MS   have N of them, in turns, track something else, spread over the time; print
 *                   "changed" when all have heard of the last change, and the microseconds since
 *     report        print one line of JSON of what came since the last report
 *
 * Joins and leaves are counted, not kept: a member knows of so many others as joins less leaves. */
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
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

enum { ROOM = 4 << 20 };

typedef struct {
    int fd, upgraded, joined, ref;
    long known, heard;
    size_t kept_size;
    char *kept;
} Connection;

static Connection *connections;
static char *room;
static const char *topic;
static int epoll_fd, timer_fd, port, count, upgraded_now;
static long tracked_now, frames, states, bytes, knowing, steps, steps_done, changes, last_change;
static int is_changing, is_told;
static double last_tracked, begun, step_us;

static void send_text(Connection *connection, const char *text) {
    char frame[2048];
    size_t size = strlen(text);
    frame[0] = (char)0x81;
    frame[1] = (char)(0x80 | 126);
    frame[2] = (char)(size >> 8);
    frame[3] = (char)size;
    memset(frame + 4, 0, 4); /* a mask of zeros changes nothing */
    memcpy(frame + 8, text, size);
    if (send(connection->fd, frame, 8 + size, MSG_NOSIGNAL) != (ssize_t)(8 + size)) die("send");
}

static void join(Connection *connection) {
    char text[512];
    snprintf(text, sizeof text,
             "[\"1\",\"1\",\"%s\",\"phx_join\",{\"config\":{\"presence\":{\"key\":"
             "\"member-%06d\",\"enabled\":true}}}]",
             topic, (int)(connection - connections));
    send_text(connection, text);
}

static void track(Connection *connection, long version) {
    char text[512];
    snprintf(text, sizeof text,
             "[\"1\",\"%d\",\"%s\",\"presence\",{\"event\":\"track\",\"payload\":{\"name\":"
             "\"somebody of the room\",\"version\":%08ld,\"status\":\"away from here\"}}]",
             ++connection->ref + 1, topic, 10000000 + version);
    send_text(connection, text);
    last_tracked = now(CLOCK_MONOTONIC);
}

static long occurrences(const char *data, size_t size, const char *what) {
    long found = 0;
    size_t length = strlen(what);
    for (const char *end = data + size, *at = data;
         (at = memmem(at, (size_t)(end - at), what, length)); at += length)
        found++;
    return found;
}

static void say_when_all_know(void) {
    if (is_told) return;
    if (is_changing ? knowing < count : knowing < count || tracked_now < count) return;
    is_told = 1;
    printf("%s %.0f\n", is_changing ? "changed" : "known", now(CLOCK_MONOTONIC) - last_tracked);
    fflush(stdout);
}

static void message(Connection *connection, const char *data, size_t size) {
    static const char state[] = "\"presence_state\"", diff[] = "\"presence_diff\"";
    static const char ref[] = "\"phx_ref\":\"", leaves[] = "},\"leaves\":{";
    size_t head = size < 100 ? size : 100;
    long before = connection->known;
    if (memmem(data, head, state, sizeof state - 1)) {
        states++;
        connection->known = occurrences(data, size, ref);
    } else if (memmem(data, head, diff, sizeof diff - 1)) {
        const char *at = memmem(data, size, leaves, sizeof leaves - 1);
        if (!at) die("a diff without leaves");
        connection->known += occurrences(data, (size_t)(at - data), ref) -
                             occurrences(at, size - (size_t)(at - data), ref);
        if (is_changing) {
            char last[32];
            snprintf(last, sizeof last, ":%ld,", 10000000 + last_change);
            int heard = steps_done == steps && memmem(data, size, last, strlen(last));
            if (heard && !connection->heard) {
                connection->heard = 1;
                knowing++;
            }
        }
    } else {
        if (!memmem(data, size, "\"status\":\"ok\"", 13)) {
            fprintf(stderr, "refused: %.*s\n", (int)size, data);
            exit(1);
        }
        if (!connection->joined) {
            connection->joined = 1;
            track(connection, 0);
            tracked_now++;
        }
        return;
    }
    frames++;
    bytes += (long)size;
    if (!is_changing) knowing += (connection->known == count) - (before == count);
    say_when_all_know();
}

static size_t take(Connection *connection, const char *data, size_t size) {
    size_t at = 0;
    if (!connection->upgraded) {
        const char *end = memmem(data, size, "\r\n\r\n", 4);
        if (!end) return 0;
        if (memcmp(data, "HTTP/1.1 101", 12)) die("handshake");
        at = (size_t)(end - data) + 4;
        connection->upgraded = 1;
        if (++upgraded_now == count) {
            printf("open\n");
            fflush(stdout);
        }
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
        if ((head[0] & 0x0f) == 1) message(connection, data + at + begin, length);
        if ((head[0] & 0x0f) == 9) { /* a ping, with nothing or an ordinal in it */
            char pong[6 + 125] = {(char)0x8a, (char)(0x80 | length)};
            memcpy(pong + 6, data + at + begin, length);
            if (send(connection->fd, pong, 6 + length, MSG_NOSIGNAL) < 0) die("send");
        }
        if ((head[0] & 0x0f) == 8) {
            fprintf(stderr, "closed: %.*s; of %d, %ld have tracked themselves, %ld know of all\n",
                    (int)length - 2, data + at + begin + 2, count, tracked_now, knowing);
            exit(1);
        }
        at += begin + length;
    }
    return at;
}

static void readable(Connection *connection) {
    size_t kept = connection->kept_size;
    if (kept) memcpy(room, connection->kept, kept);
    ssize_t got = recv(connection->fd, room + kept, ROOM - kept, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        fprintf(stderr, "a connection was lost\n");
        exit(1);
    }
    size_t size = kept + (size_t)got, taken = take(connection, room, size);
    connection->kept_size = size - taken;
    if (size - taken) {
        connection->kept = realloc(connection->kept, size - taken);
        if (!connection->kept) die("realloc");
        memcpy(connection->kept, room + taken, size - taken);
    }
}

static void open_connection(Connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    char request[512];
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->fd < 0) die("socket");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    snprintf(request, sizeof request,
             "GET /socket/websocket?vsn=2.0.0&session=presence-%d-%d HTTP/1.1\r\nHost: localhost\r\n"
             "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
             "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
             (int)getpid(), (int)(connection - connections));
    if (send(connection->fd, request, strlen(request), 0) < 0) die("send");
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event)) die("epoll_ctl");
}

static void begin_steps(long all, double milliseconds) {
    struct timespec each = {0, 1000000};
    struct itimerspec period = {each, each};
    begun = now(CLOCK_MONOTONIC);
    steps = all;
    steps_done = 0;
    step_us = milliseconds * 1e3 / (double)all;
    is_told = 0;
    if (timerfd_settime(timer_fd, 0, &period, NULL)) die("timer");
}

static void do_steps(void) {
    struct itimerspec never = {0};
    while (steps_done < steps && begun + (double)steps_done * step_us <= now(CLOCK_MONOTONIC)) {
        Connection *connection = &connections[(is_changing ? changes : steps_done) % count];
        steps_done++;
        if (!is_changing) {
            join(connection);
        } else {
            last_change = ++changes;
            track(connection, changes);
        }
    }
    if (steps_done == steps) timerfd_settime(timer_fd, 0, &never, NULL);
}

static int command(void) {
    char line[256];
    ssize_t got = read(0, line, sizeof line - 1);
    long many, milliseconds;
    if (got <= 0) return 0;
    line[got] = 0;
    if (sscanf(line, "join %ld", &milliseconds) == 1) {
        begin_steps(count, (double)milliseconds);
    } else if (sscanf(line, "change %ld %ld", &many, &milliseconds) == 2) {
        is_changing = 1;
        knowing = 0;
        for (int each = 0; each < count; each++) connections[each].heard = 0;
        begin_steps(many, (double)milliseconds);
    } else {
        printf("{\"frames\": %ld, \"states\": %ld, \"bytes\": %ld}\n", frames, states, bytes);
        fflush(stdout);
        frames = states = bytes = 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    struct epoll_event events[1024];
    if (argc != 4) {
        fprintf(stderr, "usage: presence PORT COUNT TOPIC\n");
        return 2;
    }
    port = atoi(argv[1]);
    count = atoi(argv[2]);
    topic = argv[3];
    room = malloc(ROOM);
    connections = calloc((size_t)count, sizeof *connections);
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (!room || !connections || epoll_fd < 0 || timer_fd < 0) die("start");
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = &epoll_fd};
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = &timer_fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &input);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &timer);
    for (int opened = 0;;) {
        /* A few at a time, so that the server's backlog takes them. */
        while (opened < count && opened - upgraded_now < 64)
            open_connection(&connections[opened++]);
        int ready = epoll_wait(epoll_fd, events, 1024, -1);
        for (int each = 0; each < ready; each++) {
            void *what = events[each].data.ptr;
            uint64_t expirations;
            if (what == &epoll_fd) {
                if (!command()) return 0;
            } else if (what == &timer_fd) {
                if (read(timer_fd, &expirations, sizeof expirations) > 0) do_steps();
            } else {
                readable(what);
            }
        }
    }
}
