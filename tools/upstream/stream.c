/* SPDX-License-Identifier: Apache-2.0 */
#include "stream.h"

#include "text.h"

#include <stdio.h>
#include <string.h>

/* A burst is one write, up to this many bytes; a longer one goes on when these are sent. */
#define BURST_MAX (256 * 1024)

/* Where events are put together before they are framed. One thread, never kept across calls. */
static up_buf_t events;
static up_buf_t words;

static up_step_t fail(up_exchange_t *x)
{
    static const struct {
        unsigned status;
        const char *type;
    } types[] = {
        {400, "invalid_request_error"}, {401, "authentication_error"}, {403, "permission_error"},
        {404, "not_found_error"},       {429, "rate_limit_error"},     {529, "overloaded_error"},
    };
    const char *type = "server_error";
    char retry_after[64] = "";
    char body[160];
    size_t i;

    for (i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].status == x->params.status) {
            type = types[i].type;
        }
    }
    if (x->params.retry_after >= 0) {
        snprintf(retry_after, sizeof retry_after, "Retry-After: %lld\r\n", (long long)x->params.retry_after);
    }
    snprintf(body, sizeof body, "{\"error\":{\"message\":\"SECRET-upstream-detail\",\"type\":\"%s\"}}", type);
    x->framing = UP_LENGTH;
    x->length = strlen(body);
    up_exchange_head(x, x->params.status, "application/json", retry_after);
    up_exchange_body(x, body, strlen(body));
    return UP_END;
}

static bool more_to_say(const up_exchange_t *x)
{
    return x->params.echo ? x->text.len > 0 : x->next < x->params.tokens;
}

static void say_token(up_exchange_t *x)
{
    if (x->params.echo) {
        const char *text = up_buf_data(&x->text);
        size_t len = up_text_word(text, x->text.len);

        up_dialect_token(&x->speaker, &events, text, len);
        up_buf_consume(&x->text, len);
    }
    else {
        up_buf_clear(&words);
        up_text_token(&words, &x->params, x->next);
        up_dialect_token(&x->speaker, &events, words.data, words.len);
    }
    x->next++;
}

static up_step_t all_at_once(up_exchange_t *x)
{
    bool more;

    up_buf_clear(&events);
    while ((more = more_to_say(x)) && events.len < BURST_MAX) {
        say_token(x);
    }
    if (!more) {
        up_dialect_end(&x->speaker, &events, x->params.done);
    }
    up_exchange_body(x, events.data, events.len);
    return more ? UP_WROTE : UP_END;
}

/* Token i is due i / rate seconds after the first one, however late the ones before it were. */
static up_step_t paced(up_exchange_t *x)
{
    up_buf_clear(&events);
    if (more_to_say(x)) {
        uint64_t due = x->started + x->next * UP_S / x->params.rate;

        if (up_loop_clock() < due) {
            up_exchange_sleep(x, due);
            return UP_WAIT;
        }
        say_token(x);
        up_exchange_body(x, events.data, events.len);
        return UP_WROTE;
    }
    up_dialect_end(&x->speaker, &events, x->params.done);
    up_exchange_body(x, events.data, events.len);
    return UP_END;
}

static up_step_t first_token(up_exchange_t *x)
{
    x->started = up_loop_clock();
    x->step = x->params.rate > 0 ? paced : all_at_once;
    return x->step(x);
}

static up_step_t head(up_exchange_t *x)
{
    char retry_after[64] = "";

    if (x->params.status != 200) {
        return fail(x);
    }
    if (x->params.retry_after >= 0) {
        snprintf(retry_after, sizeof retry_after, "Retry-After: %lld\r\n", (long long)x->params.retry_after);
    }
    up_exchange_head(x, 200, up_dialect_content_type(x->speaker.dialect), retry_after);
    x->step = first_token;
    if (x->params.first > 0) {
        up_exchange_sleep(x, up_loop_clock() + x->params.first * UP_MS);
        return UP_WAIT;
    }
    /* Without a pause the head shares the write of a burst, as a fast server's would. */
    return x->params.rate > 0 ? UP_WROTE : first_token(x);
}

void up_stream_begin(up_exchange_t *x)
{
    if (x->params.echo) {
        up_text_reply(&x->text, x->question);
    }
    x->step = head;
}

void up_stream_free(void)
{
    up_buf_free(&events);
    up_buf_free(&words);
}
