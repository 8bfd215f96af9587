/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chatstream-relay --listen ADDR:PORT --upstream ADDR:PORT [--port-file FILE]
 *
 * Port 0 takes a free one; its number is written to the port file once the relay listens. Ends on SIGTERM or SIGINT.
 */
#include "relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t stop_asked;

static void on_signal(int sig)
{
    (void)sig;
    stop_asked = 1;
}

static void die(const char *what, const char *value)
{
    fprintf(stderr, "chatstream-relay: %s: %s\n", what, value);
    exit(2);
}

static void parse_address(struct sockaddr_in *sa, const char *s)
{
    char host[64];
    unsigned port;

    sa->sin_family = AF_INET;
    if (sscanf(s, "%63[^:]:%u", host, &port) != 2 || port > 65535 || inet_pton(AF_INET, host, &sa->sin_addr) != 1)
        die("not ADDR:PORT", s);
    sa->sin_port = htons((uint16_t)port);
}

static int listen_on(struct sockaddr_in *sa)
{
    socklen_t len = sizeof(*sa);
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        die("socket", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)sa, len) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)sa, &len) < 0)
        die("listen", strerror(errno));
    return fd;
}

static void write_port(const char *path, unsigned port)
{
    FILE *f = fopen(path, "w");

    if (!f || fprintf(f, "%u\n", port) < 0 || fclose(f) != 0)
        die(path, strerror(errno));
}

static void raise_files(void)
{
    struct rlimit lim;

    if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
}

static void loop(relay_t *r, int listener)
{
    peer_t door = {.kind = PEER_LISTENER, .fd = listener};
    struct epoll_event ev[512] = {{.events = EPOLLIN, .data.ptr = &door}};

    epoll_ctl(r->epoll, EPOLL_CTL_ADD, listener, &ev[0]);
    while (!stop_asked) {
        int n = epoll_wait(r->epoll, ev, 512, -1);

        for (int i = 0; i < n; i++) {
            peer_t *p = ev[i].data.ptr;

            if (p->kind == PEER_LISTENER)
                relay_accept(r, listener);
            else
                relay_ready(r, p, ev[i].events);
        }
        relay_bury(r);
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"listen", 1, NULL, 'l'}, {"upstream", 1, NULL, 'u'}, {"port-file", 1, NULL, 'p'}, {NULL, 0, NULL, 0},
    };
    struct sigaction sa = {.sa_handler = on_signal};
    struct sockaddr_in at = {0};
    const char *port_file = NULL;
    relay_t relay = {0};
    int opt, listener;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == 'l')
            parse_address(&at, optarg);
        else if (opt == 'u')
            parse_address(&relay.upstream, optarg);
        else if (opt == 'p')
            port_file = optarg;
        else
            die("usage", "--listen ADDR:PORT --upstream ADDR:PORT [--port-file FILE]");
    }
    if (!at.sin_family || !relay.upstream.sin_port)
        die("usage", "--listen ADDR:PORT --upstream ADDR:PORT [--port-file FILE]");
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    raise_files();
    listener = listen_on(&at);
    relay.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (relay.epoll < 0)
        die("epoll", strerror(errno));
    if (port_file)
        write_port(port_file, ntohs(at.sin_port));
    loop(&relay, listener);
    return 0;
}
