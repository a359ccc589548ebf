/* The floor: no server can write frames to sockets with less than this loop.
 *
 *     floor CONNECTIONS FRAME_BYTES
 *
 * It prints its port, answers as many handshakes and joins, and prints "ready". Each line
 * "write N" on standard input has it write N frames to every connection, joined, in one call
 * of send() each; it then prints "written". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

static void send_all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            struct pollfd full = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN || poll(&full, 1, -1) < 0) die("send");
            continue;
        }
        data += sent;
        size -= (size_t)sent;
    }
}

static void receive_until(int fd, const char *end, size_t end_size) {
    char data[4096];
    size_t size = 0;
    while (!memmem(data, size, end, end_size)) {
        ssize_t got = recv(fd, data + size, sizeof data - size, 0);
        if (got <= 0) die("recv");
        size += (size_t)got;
    }
}

static size_t frame(char *into, size_t size, long id) {
    char text[1 << 16];
    struct timespec time;
    struct tm day;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &time);
    gmtime_r(&time.tv_sec, &day);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &day);
    int length = snprintf(text, sizeof text,
                          "{\"topic\":\"realtime:public:item\",\"event\":\"INSERT\",\"payload\":{"
                          "\"schema\":\"public\",\"table\":\"item\",\"type\":\"INSERT\","
                          "\"commit_timestamp\":\"%s.%06ldZ\",\"record\":{\"id\":\"%ld\",\"data\":\"",
                          stamp, time.tv_nsec / 1000, id);
    size_t body = size - 4;
    memset(text + length, 'x', body - (size_t)length - 15);
    memcpy(text + body - 15, "\"}},\"ref\":null}", 15);
    into[0] = (char)0x81;
    into[1] = 126;
    into[2] = (char)(body >> 8);
    into[3] = (char)body;
    memcpy(into + 4, text, body);
    return size;
}

int main(int argc, char **argv) {
    static const char upgrade[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                  "Connection: Upgrade\r\n\r\n";
    static const char reply[] = "{\"event\":\"phx_reply\",\"payload\":{\"status\":\"ok\"}}";
    if (argc != 3) {
        fprintf(stderr, "usage: floor CONNECTIONS FRAME_BYTES\n");
        return 2;
    }
    int count = atoi(argv[1]), on = 1, *fds = calloc((size_t)count, sizeof(int));
    size_t size = (size_t)atol(argv[2]);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t address_size = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 1024))
        die("listen");
    getsockname(listening, (struct sockaddr *)&address, &address_size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (int each = 0; each < count; each++) {
        char text[128] = {(char)0x81, (char)(sizeof reply - 1)};
        memcpy(text + 2, reply, sizeof reply - 1);
        if ((fds[each] = accept(listening, NULL, NULL)) < 0) die("accept");
        setsockopt(fds[each], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        receive_until(fds[each], "\r\n\r\n", 4);
        send_all(fds[each], upgrade, sizeof upgrade - 1);
        receive_until(fds[each], "phx_join", 8);
        send_all(fds[each], text, sizeof reply + 1);
    }
    printf("ready\n");
    fflush(stdout);
    char line[64], *data = malloc(1 << 24);
    for (long id = 1; fgets(line, sizeof line, stdin);) {
        long more = atol(line + strlen("write "));
        size_t length = 0;
        for (long each = 0; each < more; each++) length += frame(data + length, size, id++);
        for (int each = 0; each < count; each++) send_all(fds[each], data, length);
        printf("written\n");
        fflush(stdout);
    }
    return 0;
}
