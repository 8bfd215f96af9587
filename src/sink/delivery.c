/* SPDX-License-Identifier: Apache-2.0 */
#include "delivery.h"

#include <apr_strings.h>
#include <http_protocol.h>
#include <string.h>

#define ENOUGH 16384 /* a slow client's share of memory; a fast one comes back at once */

apr_status_t cs_delivery_open(cs_delivery_t *delivery, request_rec *r, const cs_sink_spec_t *spec)
{
    cs_uuid_t id;
    uint32_t format;

    delivery->r = r;
    delivery->cursor = *spec->cursor;
    spec->cursor->slot = CS_LOG_NONE;
    delivery->format = spec->format;
    delivery->opened = delivery->last_sent = cs_clock_mono();
    delivery->heartbeat = spec->heartbeat;
    delivery->commit_after = spec->commit_after;
    delivery->after_seq = spec->after_seq;
    delivery->gap_to = spec->gap_to;
    cs_log_slot_info(delivery->cursor.log, delivery->cursor.slot, &id, &delivery->info.created_at, &format);
    cs_uuid_format(delivery->id, &id);
    delivery->info.stream_id = delivery->id;
    if (!spec->format) {
        apr_status_t rv = cs_document_create(&delivery->document, spec->max_answer);

        if (rv) {
            cs_delivery_close(delivery);
            return rv;
        }
    }
    return APR_SUCCESS;
}

void cs_delivery_close(cs_delivery_t *delivery)
{
    cs_document_destroy(delivery->document);
    delivery->document = NULL;
    cs_log_cursor_close(&delivery->cursor);
}

/* ---- endings ----------------------------------------------------------------------------------------------------- */

/* Codes of answers with a status that are none among the codes of events, and what they are there. */
static const char *event_code(const char *code)
{
    return !strcmp(code, "rate_limited") ? "upstream_error" : !strcmp(code, "unavailable") ? "too_large" : code;
}

static void read_ending(const cs_log_ending_t *from, cs_ending_t *to)
{
    to->error_code = from->code[0] ? event_code(from->code) : NULL;
    to->error_message = from->message;
    to->retryable = from->retryable;
    to->finish_reason = from->finish_reason[0] ? from->finish_reason : NULL;
    to->prompt_tokens = from->prompt_tokens;
    to->completion_tokens = from->completion_tokens;
    to->first_token_ms = from->first_token_ms;
    to->duration_ms = from->duration_ms;
    to->tokens = from->tokens;
}

static cs_delivery_e answer_problem(cs_delivery_t *delivery, const cs_log_ending_t *ending)
{
    cs_result_t problem = {.status = ending->http_status ? ending->http_status : HTTP_BAD_GATEWAY};

    problem.code = apr_pstrdup(delivery->r->pool, ending->code);
    problem.message = apr_pstrdup(delivery->r->pool, ending->message);
    problem.retry_after = ending->retry_after;
    delivery->committed = 1;
    cs_response_problem(delivery->r, &problem);
    return CS_DELIVERY_ANSWERED;
}

static cs_delivery_e answer_document(cs_delivery_t *delivery, const cs_log_ending_t *ending, cs_buf_t *out)
{
    static const cs_result_t too_large = {502, "too_large", "The answer is larger than allowed.", 0, NULL};
    cs_ending_t end;

    if (ending->code[0]) {
        return answer_problem(delivery, ending);
    }
    delivery->committed = 1;
    read_ending(ending, &end);
    if (cs_document_write(delivery->document, &delivery->info, &end, out)) {
        cs_response_problem(delivery->r, &too_large);
        return CS_DELIVERY_ANSWERED;
    }
    /* Through `out`, as events go: it may be large and the client slow. */
    cs_response_json_head(delivery->r, HTTP_OK, out->len);
    return CS_DELIVERY_DONE;
}

static cs_delivery_e end_with(cs_delivery_t *delivery, const char *code, const char *message, cs_buf_t *out)
{
    cs_ending_t ending = {.error_code = code,
                          .error_message = message,
                          .retryable = 1,
                          .prompt_tokens = -1,
                          .completion_tokens = -1,
                          .first_token_ms = -1};

    if (delivery->document) {
        cs_log_ending_t problem = {.http_status = HTTP_BAD_GATEWAY};

        apr_cpystrn(problem.code, code, sizeof(problem.code));
        apr_cpystrn(problem.message, message, sizeof(problem.message));
        return answer_problem(delivery, &problem);
    }
    /* Without an id: the client's last one stays what it resumes from. */
    delivery->format->ending(out, &delivery->info, &ending, 0);
    return CS_DELIVERY_DONE;
}

/* ---- the commit -------------------------------------------------------------------------------------------------- */

static void commit(cs_delivery_t *delivery, cs_buf_t *out)
{
    const cs_format_t *format = delivery->format;
    uint64_t from = delivery->after_seq;

    delivery->committed = 1;
    if (!format) {
        return;
    }
    cs_response_event_stream(delivery->r, format->content_type);
    format->preamble(out);
    if (format->numbers_frame && !from) {
        format->start(out, &delivery->info);
        from = 1;
    }
    if (delivery->gap_to > from) {
        format->gap(out, &delivery->info, from + 1, delivery->gap_to);
    }
}

/* May the response begin? A failure that comes before is answered with its own status. */
static int must_commit(const cs_delivery_t *delivery, apr_time_t now)
{
    cs_state_e state = (cs_state_e)delivery->cursor.state;

    return delivery->format
           && (state == CS_STATE_ACTIVE || state == CS_STATE_COMPLETED || delivery->after_seq
               || now - delivery->opened >= delivery->commit_after);
}

/* ---- filling ----------------------------------------------------------------------------------------------------- */

static apr_status_t deliver_event(cs_delivery_t *delivery, const cs_event_t *event, cs_buf_t *out)
{
    return delivery->document ? cs_document_add(delivery->document, event)
                              : delivery->format->event(out, &delivery->info, event);
}

static cs_delivery_e deliver_ending(cs_delivery_t *delivery, const cs_log_ending_t *ending, cs_buf_t *out)
{
    cs_ending_t end;

    if (delivery->document) {
        return answer_document(delivery, ending, out);
    }
    if (!delivery->committed) {
        if (ending->code[0] && ending->http_status) {
            return answer_problem(delivery, ending);
        }
        commit(delivery, out);
    }
    read_ending(ending, &end);
    delivery->format->ending(out, &delivery->info, &end, delivery->cursor.seq + 1);
    return CS_DELIVERY_DONE;
}

static cs_delivery_e read_log(cs_delivery_t *delivery, cs_buf_t *out)
{
    cs_log_ending_t ending;
    cs_event_t event;

    for (;;) {
        cs_read_e got = cs_log_read(&delivery->cursor, &event, &ending);

        if (got == CS_READ_EMPTY) {
            return CS_DELIVERY_WAIT;
        }
        if (got == CS_READ_ENDED) {
            return deliver_ending(delivery, &ending, out);
        }
        if (got == CS_READ_LAGGED) {
            return end_with(delivery, "lagged", "This reader fell too far behind.", out);
        }
        if (!delivery->committed && !delivery->document) {
            commit(delivery, out); /* it ended badly, but there is something to tell first */
        }
        if (deliver_event(delivery, &event, out)) {
            return end_with(delivery, "too_large", "The answer is larger than allowed.", out);
        }
        if (out->len >= ENOUGH) {
            return CS_DELIVERY_MORE;
        }
    }
}

cs_delivery_e cs_delivery_fill(cs_delivery_t *delivery, apr_time_t now, cs_buf_t *out)
{
    cs_delivery_e result;

    if (cs_log_read_begin(&delivery->cursor) == CS_READ_LAGGED) {
        if (!delivery->committed) {
            commit(delivery, out);
        }
        return end_with(delivery, "lagged", "This reader fell too far behind.", out);
    }
    if (!delivery->committed && must_commit(delivery, now)) {
        commit(delivery, out);
    }
    result = CS_DELIVERY_WAIT;
    if (delivery->committed || delivery->document || cs_state_is_end((cs_state_e)delivery->cursor.state)) {
        result = read_log(delivery, out);
    }
    cs_log_read_end(&delivery->cursor);
    if (!out->len && delivery->committed && result == CS_DELIVERY_WAIT && delivery->format
        && now - delivery->last_sent >= delivery->heartbeat) {
        delivery->format->heartbeat(out, apr_time_now());
    }
    if (out->len) {
        delivery->last_sent = now;
        cs_log_cursor_sent(&delivery->cursor, out->len); /* every byte in it goes out, or the client is gone */
    }
    return result;
}

apr_time_t cs_delivery_deadline(const cs_delivery_t *delivery)
{
    if (delivery->document) {
        return -1;
    }
    return delivery->committed ? delivery->last_sent + delivery->heartbeat : delivery->opened + delivery->commit_after;
}
