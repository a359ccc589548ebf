/* The load client of joins: connections that are open, and then join, in one thread.
 *
 *     joins PORT CONNECTIONS AT_ONCE FILE
 *
 * The file has a line for each join: its topic, a space, and its payload. Each connection sends as
 * many of them as any other, all at once, as stock clients do when they have connected. AT_ONCE
 * connections wait for answers at the same time. It connects, prints "open", and waits for a line
 * on standard input. When all joins are answered it prints the microseconds that that took, those
 * within which half of the answers came, and 99 of 100, and its own of the processor. It stays
 * connected until standard input ends.
 *
 * The variable APIKEY holds the token that every connection shows. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

enum { ROOM = 1 << 20 };

typedef struct {
    int fd, answers;
    double sent_at;
    size_t kept;
    char *room;
} Connection;

static Connection *connections;
static char **joins;
static int port, count, at_once, each, total, begun, finished, answered, epoll_fd;
static double *times;

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void send_frame(Connection *connection, int opcode, const char *data, size_t size) {
    unsigned char frame[8 + 16384];
    size_t head = size < 126 ? 6 : 8;
    if (size > sizeof frame - 8) die("a frame is too long");
    frame[0] = (unsigned char)(0x80 | opcode);
    frame[1] = (unsigned char)(0x80 | (size < 126 ? size : 126));
    if (head == 8) {
        frame[2] = (unsigned char)(size >> 8);
        frame[3] = (unsigned char)size;
    }
    memset(frame + head - 4, 0, 4); /* a mask of zeros changes nothing */
    memcpy(frame + head, data, size);
    if (send(connection->fd, frame, head + size, MSG_NOSIGNAL) != (ssize_t)(head + size))
        die("send");
}

static void begin(void) {
    static char text[16384];
    Connection *connection = &connections[begun];
    connection->sent_at = now(CLOCK_MONOTONIC);
    for (int number = 0; number < each; number++) {
        const char *line = joins[begun * each + number], *space = strchr(line, ' ');
        int size = snprintf(text, sizeof text, "[\"%d\",\"%d\",\"%.*s\",\"phx_join\",%s]", number + 1,
                            number + 1, (int)(space - line), line, space + 1);
        send_frame(connection, 1, text, (size_t)size);
    }
    begun++;
}

static void message(Connection *connection, const char *data, size_t size) {
    if (!memmem(data, size, "\"phx_reply\"", 11)) return;
    if (!memmem(data, size, "\"status\":\"ok\"", 13)) {
        fprintf(stderr, "no join: %.*s\n", (int)size, data);
        exit(1);
    }
    times[answered++] = now(CLOCK_MONOTONIC) - connection->sent_at;
    if (++connection->answers < each) return;
    finished++;
    if (begun < count) begin();
}

/* Take all whole frames; return how many bytes they are. */
static size_t take(Connection *connection, const char *data, size_t size) {
    size_t at = 0;
    while (size - at >= 2) {
        const unsigned char *head = (const unsigned char *)data + at;
        size_t length = head[1], begin = length == 126 ? 4 : 2;
        if (length == 127) die("a frame is too long");
        if (size - at < begin) break;
        if (length == 126) length = (size_t)head[2] << 8 | head[3];
        if (size - at < begin + length) break;
        if ((head[0] & 0x0f) == 1) message(connection, data + at + begin, length);
        if ((head[0] & 0x0f) == 8) die("the server has closed a connection");
        if ((head[0] & 0x0f) == 9) send_frame(connection, 10, data + at + begin, length);
        at += begin + length;
    }
    return at;
}

static void readable(Connection *connection) {
    ssize_t got = recv(connection->fd, connection->room + connection->kept,
                       ROOM - connection->kept, 0);
    if (got <= 0) die("a connection was lost");
    size_t size = connection->kept + (size_t)got, taken = take(connection, connection->room, size);
    connection->kept = size - taken;
    memmove(connection->room, connection->room + taken, connection->kept);
}

static void open_connection(Connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    char request[4096];
    int on = 1, size;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    connection->room = malloc(ROOM);
    if (connection->fd < 0 || !connection->room) die("socket");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    size = snprintf(request, sizeof request,
                    "GET /socket/websocket?vsn=2.0.0&apikey=%s HTTP/1.1\r\nHost: localhost\r\n"
                    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
                    getenv("APIKEY"));
    if (send(connection->fd, request, (size_t)size, 0) != size) die("send");
    /* Nothing follows the answer before something is sent. */
    while (!memmem(connection->room, connection->kept, "\r\n\r\n", 4)) {
        ssize_t got = recv(connection->fd, connection->room + connection->kept, 4096, 0);
        if (got <= 0) die("no handshake");
        connection->kept += (size_t)got;
    }
    if (memcmp(connection->room, "HTTP/1.1 101", 12)) die("refused");
    connection->kept = 0;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event)) die("epoll_ctl");
}

static void read_joins(FILE *file) {
    size_t room = 0, size = 0;
    char *line = NULL;
    ssize_t length;
    while ((length = getline(&line, &size, file)) > 0) {
        if ((size_t)total == room) joins = realloc(joins, (room = room * 2 + 1024) * sizeof *joins);
        if (!joins) die("realloc");
        if (line[length - 1] == '\n') line[length - 1] = 0;
        joins[total++] = strdup(line);
    }
}

int main(int argc, char **argv) {
    struct epoll_event events[1024];
    FILE *file;
    if (argc != 5 || !(file = fopen(argv[4], "r"))) {
        fprintf(stderr, "usage: joins PORT CONNECTIONS AT_ONCE FILE\n");
        return 2;
    }
    port = atoi(argv[1]);
    count = atoi(argv[2]);
    at_once = atoi(argv[3]);
    read_joins(file);
    each = total / count;
    connections = calloc((size_t)count, sizeof *connections);
    times = calloc((size_t)total, sizeof *times);
    epoll_fd = epoll_create1(0);
    if (!connections || !times || epoll_fd < 0) die("start");
    for (int number = 0; number < count; number++) open_connection(&connections[number]);
    printf("open\n");
    fflush(stdout);
    if (getchar() == EOF) return 0;
    double start = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID);
    while (begun < count && begun < at_once) begin();
    while (finished < count) {
        int ready = epoll_wait(epoll_fd, events, 1024, -1);
        for (int number = 0; number < ready; number++) readable(events[number].data.ptr);
    }
    double took = now(CLOCK_MONOTONIC) - start;
    used = now(CLOCK_PROCESS_CPUTIME_ID) - used;
    qsort(times, (size_t)answered, sizeof *times, ascending);
    printf("%.0f %.0f %.0f %.0f\n", took, times[answered / 2], times[answered * 99 / 100], used);
    fflush(stdout);
    while (getchar() != EOF) continue;
    return 0;
}
