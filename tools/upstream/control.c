/* SPDX-License-Identifier: Apache-2.0 */
#include "control.h"

#include "counts.h"
#include "script.h"
#include "signals.h"

#include <stdio.h>
#include <string.h>

static void say_ok(up_exchange_t *x)
{
    static const char ok[] = "{\"ok\":true}\n";

    up_exchange_json(x, 200, ok, sizeof ok - 1);
}

static void say(up_exchange_t *x, void (*document)(up_buf_t *out))
{
    up_buf_t text = {0};

    document(&text);
    up_exchange_json(x, 200, text.data, text.len);
    up_buf_free(&text);
}

static const char *behind(const char *path, const char *prefix)
{
    size_t len = strlen(prefix);

    return strncmp(path, prefix, len) == 0 ? path + len : NULL;
}

static void script(up_exchange_t *x, const char *name)
{
    const char *body = up_buf_data(&x->req.body);
    char wrong[200];

    if (!up_params_name(name)) {
        up_exchange_error(x, 400, "a script's name is 1 to 64 of A-Z a-z 0-9 _ . -");
    }
    else if (strcmp(x->req.method, "PUT") != 0) {
        up_exchange_error(x, 405, "PUT a script");
    }
    else if (!up_script_put(name, body, x->req.body.len, wrong, sizeof wrong)) {
        up_exchange_error(x, 400, wrong);
    }
    else {
        say_ok(x);
    }
}

static void signal_by_name(up_exchange_t *x, const char *name)
{
    if (!up_params_name(name)) {
        up_exchange_error(x, 400, "a signal's name is 1 to 64 of A-Z a-z 0-9 _ . -");
    }
    else if (strcmp(x->req.method, "POST") == 0) {
        if (up_signals_raise(name)) {
            say_ok(x);
        }
        else {
            up_exchange_error(x, 400, "too many signals");
        }
    }
    else if (strcmp(x->req.method, "DELETE") == 0) {
        up_signals_lower(name);
        say_ok(x);
    }
    else {
        up_exchange_error(x, 405, "POST raises a signal, DELETE lowers it");
    }
}

static void wait_for(up_exchange_t *x, const char *what)
{
    static const char *const names[UP_COUNTS] = {"requests/", "active/", "finished/", "aborted/"};
    uint64_t timeout = 5000;
    uint64_t wanted;
    int which;

    if (*x->req.query != '\0') {
        const char *value = behind(x->req.query, "timeout=");

        if (value == NULL || !up_params_number(value, 3600000, &timeout)) {
            up_exchange_error(x, 400, "the only parameter is timeout=MS");
            return;
        }
    }
    for (which = 0; which < UP_COUNTS; which++) {
        const char *number = behind(what, names[which]);

        if (number != NULL && up_params_number(number, UINT32_MAX, &wanted)) {
            up_counts_wait(x, (up_count_t)which, wanted, timeout);
            return;
        }
    }
    up_exchange_error(x, 404, "wait for requests/N, active/N, finished/N or aborted/N");
}

void up_control_begin(up_exchange_t *x)
{
    const char *path = x->req.path;
    const char *rest;

    if ((rest = behind(path, "/_script/")) != NULL) {
        script(x, rest);
    }
    else if ((rest = behind(path, "/_signal/")) != NULL) {
        signal_by_name(x, rest);
    }
    else if ((rest = behind(path, "/_wait/")) != NULL) {
        wait_for(x, rest);
    }
    else if (strcmp(path, "/_count") == 0) {
        say(x, up_counts_report);
    }
    else if (strcmp(path, "/_requests") == 0) {
        say(x, up_counts_requests);
    }
    else if (strcmp(path, "/_reset") == 0 && strcmp(x->req.method, "POST") == 0) {
        up_script_forget_all();
        up_signals_lower_all();
        up_counts_reset();
        say_ok(x);
    }
    else {
        up_exchange_error(x, 404, "no such control");
    }
}
