/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chatstream-upstream: an AI provider that does as it is told. See README.md in this directory.
 */
#include "counts.h"
#include "listen.h"
#include "loop.h"
#include "run.h"
#include "script.h"
#include "serve.h"
#include "signals.h"
#include "stream.h"
#include "tls.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define LISTENERS_MAX 16

typedef struct options_t {
    up_tls_context_t *contexts[LISTENERS_MAX];
    int contexts_count;
    int ports[LISTENERS_MAX];
    int ports_count;
    const char *port_files[LISTENERS_MAX];
    int port_files_count;
    int listeners;
    bool tls_unused; /* no --listen behind the last --tls yet */
    bool quiet;
} options_t;

static const char usage[] =
    "usage: chatstream-upstream [--listen HOST:PORT] [--unix PATH] [--tls CERT.pem KEY.pem]\n"
    "                           [--port-file FILE] [--quiet] [--help]\n"
    "\n"
    "An upstream simulator: answers like an AI provider, as fast, slow or broken as it is told.\n"
    "\n"
    "  --listen HOST:PORT   listen there; port 0 picks a free one; may be repeated (127.0.0.1:0)\n"
    "  --unix PATH          listen on a Unix socket; may be repeated\n"
    "  --tls CERT KEY       the --listen options behind this one speak TLS\n"
    "  --port-file FILE     write the bound port of the first --listen there (repeated: of the second, ...)\n"
    "  --quiet              no summary at the end\n"
    "\n"
    "Dialects: /sse /openai /text /anthropic /responses /ollama; what the query string can ask for, scripts\n"
    "and the control paths are described in tools/upstream/README.md.\n";

static void on_signal(up_source_t *source, uint32_t events)
{
    (void)source;
    (void)events;
    up_loop_stop();
}

static bool watch_signals(int *fd)
{
    static up_source_t source = {on_signal};
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) {
        return false;
    }
    *fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return *fd >= 0 && up_loop_add(*fd, EPOLLIN, &source);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Under another name first, so that who waits for the file never reads half of it. */
static bool write_port_file(const char *file, int port)
{
    size_t size = strlen(file) + 32;
    char *temporary = up_alloc(size);
    FILE *out;
    bool ok;

    snprintf(temporary, size, "%s.%ld", file, (long)getpid());
    out = fopen(temporary, "w");
    ok = out != NULL && fprintf(out, "%d\n", port) > 0;
    if (out != NULL) {
        ok = fclose(out) == 0 && ok;
    }
    ok = ok && rename(temporary, file) == 0;
    if (!ok) {
        fprintf(stderr, "chatstream-upstream: --port-file %s: %s\n", file, strerror(errno));
        unlink(temporary);
    }
    free(temporary);
    return ok;
}

static bool listen_tcp(options_t *o, const char *address)
{
    up_tls_context_t *context = o->contexts_count > 0 ? o->contexts[o->contexts_count - 1] : NULL;
    int port = up_listen_tcp(address, context, &up_serve_handler);

    if (port < 0) {
        return false;
    }
    printf("listening %.*s:%d\n", (int)(strrchr(address, ':') - address), address, port);
    o->ports[o->ports_count++] = port;
    o->tls_unused = false;
    o->listeners++;
    return true;
}

static bool listen_unix(options_t *o, const char *path)
{
    if (!up_listen_unix(path, &up_serve_handler)) {
        return false;
    }
    printf("listening unix:%s\n", path);
    o->listeners++;
    return true;
}

static bool add_tls(options_t *o, const char *cert, const char *key)
{
    up_tls_context_t *context = up_tls_context(cert, key);

    if (context == NULL) {
        return false;
    }
    o->contexts[o->contexts_count++] = context;
    o->tls_unused = true;
    return true;
}

/* One option and its arguments; how many words it had, 0 when it was wrong. */
static int take_option(options_t *o, char **argv, int left)
{
    if (strcmp(argv[0], "--quiet") == 0) {
        o->quiet = true;
        return 1;
    }
    if (left >= 2 && o->ports_count < LISTENERS_MAX && strcmp(argv[0], "--listen") == 0) {
        return listen_tcp(o, argv[1]) ? 2 : 0;
    }
    if (left >= 2 && strcmp(argv[0], "--unix") == 0) {
        return listen_unix(o, argv[1]) ? 2 : 0;
    }
    if (left >= 2 && o->port_files_count < LISTENERS_MAX && strcmp(argv[0], "--port-file") == 0) {
        o->port_files[o->port_files_count++] = argv[1];
        return 2;
    }
    if (left >= 3 && o->contexts_count < LISTENERS_MAX && strcmp(argv[0], "--tls") == 0) {
        return add_tls(o, argv[1], argv[2]) ? 3 : 0;
    }
    fputs(usage, stderr);
    return 0;
}

static bool take_options(options_t *o, int argc, char **argv)
{
    int i = 1;

    while (i < argc) {
        int words = take_option(o, argv + i, argc - i);

        if (words == 0) {
            return false;
        }
        i += words;
    }
    if (o->tls_unused) {
        fputs("chatstream-upstream: --tls is for the --listen options behind it, and there is none\n", stderr);
        return false;
    }
    if (o->listeners == 0 && !listen_tcp(o, "127.0.0.1:0")) {
        return false;
    }
    for (i = 0; i < o->port_files_count; i++) {
        if (i >= o->ports_count) {
            fputs("chatstream-upstream: more --port-file than --listen\n", stderr);
            return false;
        }
        if (!write_port_file(o->port_files[i], o->ports[i])) {
            return false;
        }
    }
    return fflush(stdout) == 0;
}

static void clean_up(options_t *o, int signal_fd)
{
    up_conn_drop_all();
    up_listen_close_all();
    up_loop_end();
    up_script_forget_all();
    up_signals_lower_all();
    up_counts_free();
    up_stream_free();
    up_run_forget();
    while (o->contexts_count > 0) {
        up_tls_context_free(o->contexts[--o->contexts_count]);
    }
    close(signal_fd);
}

int main(int argc, char **argv)
{
    options_t options = {.quiet = false};
    int signal_fd = -1;
    up_buf_t report = {0};
    int i;

    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
    }
    raise_descriptor_limit();
    if (!up_loop_init() || !watch_signals(&signal_fd)) {
        perror("chatstream-upstream");
        return 1;
    }
    if (!take_options(&options, argc, argv)) {
        clean_up(&options, signal_fd);
        return 2;
    }
    up_loop_run();
    if (!options.quiet) {
        up_counts_report(&report);
        fprintf(stderr, "chatstream-upstream: %s", up_buf_cstr(&report));
        up_buf_free(&report);
    }
    clean_up(&options, signal_fd);
    return 0;
}
