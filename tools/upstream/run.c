/* SPDX-License-Identifier: Apache-2.0 */
#include "run.h"

#include "script.h"
#include "signals.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FILL_PIECE     65536
#define STEPS_PER_TURN 1000 /* a script that only loops must not keep the others waiting */

struct up_run_t {
    up_script_t *script;
    size_t at;
    struct {
        size_t begin;  /* the line behind the repeat */
        uint64_t left; /* rounds after this one */
    } loops[UP_REPEAT_DEPTH];
    unsigned depth;
    unsigned status;
    const char *content_type; /* a header line's value, or NULL: the dialect's */
    up_buf_t headers;
    bool raw_first; /* raw bytes were said instead of a head */
    bool filling;
    uint64_t left; /* to fill */
};

/* One thread, never kept across calls. */
static up_buf_t said;
static up_buf_t expanded;

void up_run_free(up_run_t *run)
{
    if (run == NULL) {
        return;
    }
    up_script_release(run->script);
    up_buf_free(&run->headers);
    free(run);
}

static void need_head(up_exchange_t *x)
{
    up_run_t *run = x->run;

    if (!x->head_sent) {
        up_exchange_head(x, run->status,
                         run->content_type ? run->content_type : up_dialect_content_type(x->speaker.dialect),
                         run->headers.len > 0 ? up_buf_cstr(&run->headers) : NULL);
    }
}

static void add_header(up_run_t *run, const up_line_t *line)
{
    if (strncasecmp(line->text, "Content-Type:", 13) == 0) {
        run->content_type = line->text + 13 + strspn(line->text + 13, " \t");
        return;
    }
    up_buf_add(&run->headers, line->text, line->len);
    up_buf_str(&run->headers, "\r\n");
}

/* The line's text with its variables filled in, in `expanded`. */
static void expand(const up_exchange_t *x, const up_line_t *line)
{
    size_t done = 0;
    size_t i;

    up_buf_clear(&expanded);
    for (i = 0; i < line->inserts_count; i++) {
        const up_insert_t *insert = &line->inserts[i];

        up_buf_add(&expanded, line->text + done, insert->at - done);
        done = insert->at;
        if (insert->what == 'n') {
            up_buf_printf(&expanded, "%llu", (unsigned long long)x->n);
        }
        else {
            up_buf_str(&expanded, x->question);
        }
    }
    up_buf_add(&expanded, line->text + done, line->len - done);
}

static void say(up_exchange_t *x, const up_line_t *line)
{
    up_buf_clear(&said);
    switch (line->verb) {
    case UP_DO_SEND:
        expand(x, line);
        need_head(x);
        up_exchange_body(x, expanded.data, expanded.len);
        return;
    case UP_DO_RAW:
        expand(x, line);
        x->run->raw_first = x->run->raw_first || !x->head_sent;
        up_buf_add(&x->conn->out, expanded.data, expanded.len);
        return;
    case UP_DO_TOKEN:
        expand(x, line);
        up_dialect_token(&x->speaker, &said, expanded.data, expanded.len);
        break;
    case UP_DO_DONE:
        up_dialect_end(&x->speaker, &said, x->params.done);
        break;
    default:
        break;
    }
    need_head(x);
    up_exchange_body(x, said.data, said.len);
}

/* A piece at a time; the line stays the current one until all of it was sent. */
static up_step_t fill(up_exchange_t *x, const up_line_t *line)
{
    up_run_t *run = x->run;
    size_t piece;

    if (!run->filling) {
        run->filling = true;
        run->left = line->number;
    }
    need_head(x);
    piece = run->left < FILL_PIECE ? (size_t)run->left : FILL_PIECE;
    up_buf_clear(&said);
    up_buf_fill(&said, line->text[0], piece);
    up_exchange_body(x, said.data, piece);
    run->left -= piece;
    if (run->left == 0) {
        run->filling = false;
        run->at++;
    }
    return UP_WROTE;
}

static void skip_loop(up_run_t *run)
{
    unsigned depth = 1;

    while (depth > 0) {
        up_verb_t verb = run->script->lines[run->at++].verb;

        depth += verb == UP_DO_REPEAT;
        depth -= verb == UP_DO_END;
    }
}

static void enter_loop(up_run_t *run, uint64_t times)
{
    if (times == 0) {
        skip_loop(run);
        return;
    }
    run->loops[run->depth].begin = run->at;
    run->loops[run->depth++].left = times - 1;
}

static void end_of_loop(up_run_t *run)
{
    if (run->loops[run->depth - 1].left == 0) {
        run->depth--;
        return;
    }
    run->loops[run->depth - 1].left--;
    run->at = run->loops[run->depth - 1].begin;
}

/* Steps that say nothing. True when the script has to wait. */
static bool quiet_step(up_exchange_t *x, const up_line_t *line)
{
    up_run_t *run = x->run;

    switch (line->verb) {
    case UP_DO_STATUS:
        run->status = (unsigned)line->number;
        return false;
    case UP_DO_HEADER:
        add_header(run, line);
        return false;
    case UP_DO_LENGTH:
        x->framing = UP_LENGTH;
        x->length = line->number;
        return false;
    case UP_DO_SLEEP:
        up_exchange_sleep(x, up_loop_clock() + line->number * UP_MS);
        return true;
    case UP_DO_WAIT:
        return !up_signals_wait(x, line->text);
    case UP_DO_SIGNAL:
        up_signals_raise(line->text);
        return false;
    case UP_DO_REPEAT:
        enter_loop(run, line->number);
        return false;
    case UP_DO_END:
        end_of_loop(run);
        return false;
    default: /* stall */
        return true;
    }
}

static up_step_t follow(up_exchange_t *x)
{
    up_run_t *run = x->run;
    unsigned steps;

    for (steps = 0; steps < STEPS_PER_TURN; steps++) {
        const up_line_t *line;

        if (run->at == run->script->count) {
            if (run->raw_first && !x->head_sent) {
                return UP_CLOSE;
            }
            need_head(x);
            return UP_END;
        }
        line = &run->script->lines[run->at];
        if (line->verb == UP_DO_FILL) {
            return fill(x, line);
        }
        run->at++;
        switch (line->verb) {
        case UP_DO_HEADERS:
        case UP_DO_SEND:
        case UP_DO_TOKEN:
        case UP_DO_DONE:
        case UP_DO_RAW:
            say(x, line);
            return UP_WROTE;
        case UP_DO_CUT:
            return UP_CUT;
        case UP_DO_CLOSE:
            return UP_CLOSE;
        default:
            if (quiet_step(x, line)) {
                return UP_WAIT;
            }
            break;
        }
    }
    up_exchange_resume(x);
    return UP_WAIT;
}

void up_run_begin(up_exchange_t *x)
{
    up_script_t *script = up_script_use(x->params.script);

    if (script == NULL) {
        up_exchange_error(x, 404, "no such script");
        return;
    }
    x->run = up_alloc(sizeof *x->run);
    x->run->script = script;
    x->run->status = x->params.status;
    x->step = follow;
}

void up_run_forget(void)
{
    up_buf_free(&said);
    up_buf_free(&expanded);
}
