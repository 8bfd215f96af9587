/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define RECEIVE_BUFFER 8192L
#define LEFT_OVER_MAX 65536                      /* what is read after the answer is known, to save the connection */
#define LEFT_OVER_TIME apr_time_from_sec(2)

struct cs_transfer_t {
    cs_engine_t *engine;
    CURL *easy;
    const cs_upstream_t *upstream;
    const cs_transfer_events_t *events;
    void *baton; /* NULL: let go */
    struct curl_slist *headers;
    char *body;
    cs_transfer_t *next, **prev; /* running, or ready */
    cs_timer_t let_go;
    size_t left_over;
    int status;
    int retry_after;
    int answered; /* headers() was called */
    int stopped;
    int paused;
};

/* ---- libcurl's callbacks ----------------------------------------------------------------------------------------- */

static int answer(cs_transfer_t *transfer)
{
    if (!transfer->answered && transfer->baton) {
        transfer->answered = 1;
        if (transfer->events->headers(transfer->baton, transfer->status, transfer->retry_after) == CS_FLOW_STOP) {
            transfer->stopped = 1;
            return 0;
        }
    }
    return 1;
}

static size_t take_header(char *line, size_t size, size_t count, void *baton)
{
    cs_transfer_t *transfer = baton;
    size_t len = size * count;
    curl_off_t retry_after = 0;
    long status = 0;

    (void)line;
    if (len > 2 || transfer->answered) {
        return len;
    }
    /* The empty line: libcurl knows all it is going to know. 1xx heads come before the real one. */
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &retry_after);
    transfer->status = (int)status;
    transfer->retry_after = retry_after > 0 && retry_after <= 86400 ? (int)retry_after : 0;
    return status < 200 || answer(transfer) ? len : 0;
}

static size_t take_body(char *bytes, size_t size, size_t count, void *baton)
{
    cs_transfer_t *transfer = baton;
    size_t len = size * count;
    cs_flow_e flow;

    if (!transfer->baton) {
        transfer->left_over += len;
        return transfer->left_over > LEFT_OVER_MAX ? 0 : len;
    }
    flow = transfer->events->data(transfer->baton, bytes, len);
    if (flow == CS_FLOW_PAUSE) {
        transfer->paused = 1;
        return CURL_WRITEFUNC_PAUSE;
    }
    if (flow == CS_FLOW_STOP) {
        transfer->stopped = 1;
        return 0;
    }
    return len;
}

/* ---- handles: made once for each upstream, used again and again ---------------------------------------------------- */

static void set_lasting_options(cs_transfer_t *transfer)
{
    const cs_upstream_t *upstream = transfer->upstream;
    CURL *easy = transfer->easy;

    curl_easy_setopt(easy, CURLOPT_URL, upstream->url);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, cs_engine_open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer->engine);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, cs_engine_close_socket);
    curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, transfer->engine);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* an abort never waits for a name server */
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)apr_time_as_msec(upstream->connect_timeout));
    curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, 60L);
    if (upstream->unix_socket) {
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, upstream->unix_socket);
    }
    if (upstream->ca_file) {
        curl_easy_setopt(easy, CURLOPT_CAINFO, upstream->ca_file);
    }
}

static cs_transfer_t *handle_for(cs_engine_t *engine, const cs_upstream_t *upstream)
{
    cs_transfer_t *transfer;

    if (upstream->index < engine->ready_size && engine->ready[upstream->index]) {
        transfer = engine->ready[upstream->index];
        engine->ready[upstream->index] = transfer->next;
        return transfer;
    }
    transfer = calloc(1, sizeof(*transfer));
    if (!transfer) {
        return NULL;
    }
    transfer->engine = engine;
    transfer->upstream = upstream;
    transfer->easy = curl_easy_init();
    if (!transfer->easy) {
        free(transfer);
        return NULL;
    }
    set_lasting_options(transfer);
    return transfer;
}

static void free_request(cs_transfer_t *transfer)
{
    curl_slist_free_all(transfer->headers);
    transfer->headers = NULL;
    free(transfer->body);
    transfer->body = NULL;
}

void cs_transfer_free(cs_transfer_t *transfer)
{
    curl_easy_cleanup(transfer->easy);
    free_request(transfer);
    free(transfer);
}

/* Off the multi handle and back among the ready ones. */
static void retire(cs_transfer_t *transfer)
{
    cs_engine_t *engine = transfer->engine;
    unsigned index = transfer->upstream->index;

    cs_loop_timer_clear(engine->loop, &transfer->let_go);
    curl_multi_remove_handle(engine->multi, transfer->easy);
    *transfer->prev = transfer->next;
    if (transfer->next) {
        transfer->next->prev = transfer->prev;
    }
    free_request(transfer);
    if (index >= engine->ready_size) {
        cs_transfer_t **ready = realloc(engine->ready, (index + 1) * sizeof(*ready));

        if (!ready) {
            cs_transfer_free(transfer);
            return;
        }
        memset(ready + engine->ready_size, 0, (index + 1 - engine->ready_size) * sizeof(*ready));
        engine->ready = ready;
        engine->ready_size = index + 1;
    }
    transfer->next = engine->ready[index];
    engine->ready[index] = transfer;
}

void cs_transfer_drop_all(cs_engine_t *engine)
{
    unsigned i;

    while (engine->running) {
        retire(engine->running);
    }
    for (i = 0; i < engine->ready_size; i++) {
        while (engine->ready[i]) {
            cs_transfer_t *transfer = engine->ready[i];

            engine->ready[i] = transfer->next;
            cs_transfer_free(transfer);
        }
    }
}

/* ---- a request --------------------------------------------------------------------------------------------------- */

static int add_header(cs_transfer_t *transfer, const char *line)
{
    struct curl_slist *list = curl_slist_append(transfer->headers, line);

    if (list) {
        transfer->headers = list;
    }
    return list != NULL;
}

static int add_headers(cs_transfer_t *transfer, const cs_transfer_request_t *request)
{
    char line[320];
    const char *const *header;
    int ok = add_header(transfer, "Content-Type: application/json") && add_header(transfer, "Expect:") &&
             add_header(transfer, "User-Agent: mod_chatstream");

    snprintf(line, sizeof(line), "Accept: %s", cs_dialect_accept(transfer->upstream->dialect));
    ok = ok && add_header(transfer, line);
    snprintf(line, sizeof(line), "X-Request-Id: %s", request->stream_id);
    ok = ok && add_header(transfer, line);
    if (request->traceparent) {
        snprintf(line, sizeof(line), "traceparent: %.255s", request->traceparent);
        ok = ok && add_header(transfer, line);
    }
    for (header = request->headers; ok && header && *header; header++) {
        ok = add_header(transfer, *header);
    }
    return ok;
}

apr_status_t cs_transfer_start(cs_transfer_t **out, cs_engine_t *engine, const cs_upstream_t *upstream,
                               const cs_transfer_request_t *request, const cs_transfer_events_t *events, void *baton)
{
    cs_transfer_t *transfer = handle_for(engine, upstream);

    *out = NULL;
    if (!transfer) {
        free(request->body);
        return APR_ENOMEM;
    }
    transfer->body = request->body;
    transfer->events = events;
    transfer->baton = baton;
    transfer->left_over = 0;
    transfer->status = transfer->retry_after = transfer->answered = transfer->stopped = transfer->paused = 0;
    if (!add_headers(transfer, request)) {
        cs_transfer_free(transfer);
        return APR_ENOMEM;
    }
    curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, transfer->headers);
    curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
    curl_easy_setopt(transfer->easy, CURLOPT_POSTFIELDS, request->body);
    if (curl_multi_add_handle(engine->multi, transfer->easy) != CURLM_OK) {
        cs_transfer_free(transfer);
        return APR_EGENERAL;
    }
    transfer->next = engine->running;
    transfer->prev = &engine->running;
    if (engine->running) {
        engine->running->prev = &transfer->next;
    }
    engine->running = transfer;
    *out = transfer;
    return APR_SUCCESS;
}

void cs_transfer_resume(cs_transfer_t *transfer)
{
    if (transfer->paused) {
        transfer->paused = 0;
        curl_easy_pause(transfer->easy, CURLPAUSE_CONT);
        cs_engine_collect(transfer->engine);
    }
}

void cs_transfer_abort(cs_transfer_t *transfer)
{
    if (transfer) {
        retire(transfer);
    }
}

static void let_go_timed_out(void *baton) { retire(baton); }

void cs_transfer_let_go(cs_transfer_t *transfer)
{
    if (!transfer) {
        return;
    }
    transfer->baton = NULL;
    transfer->let_go.fire = let_go_timed_out;
    transfer->let_go.baton = transfer;
    cs_loop_timer_set(transfer->engine->loop, &transfer->let_go, cs_loop_now(transfer->engine->loop) + LEFT_OVER_TIME);
    cs_transfer_resume(transfer);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static cs_transfer_end_e classify(const cs_transfer_t *transfer, CURLcode code)
{
    double connected = 0;

    if (transfer->stopped) {
        return CS_TRANSFER_STOPPED;
    }
    switch (code) {
    case CURLE_OK:
        return CS_TRANSFER_WHOLE;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_OUT_OF_MEMORY:
        return CS_TRANSFER_CONNECT;
    case CURLE_OPERATION_TIMEDOUT: /* the only time-out that is libcurl's */
        return CS_TRANSFER_CONNECT_TIMEOUT;
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9 and the like */
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2:
        return CS_TRANSFER_GARBAGE;
    default:
        curl_easy_getinfo(transfer->easy, CURLINFO_PRETRANSFER_TIME, &connected);
        return connected > 0 ? CS_TRANSFER_CUT : CS_TRANSFER_CONNECT;
    }
}

void cs_transfer_finished(CURL *easy, CURLcode code)
{
    cs_transfer_t *transfer = NULL;
    const cs_transfer_events_t *events;
    cs_transfer_end_e end;
    void *baton;

    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &transfer);
    end = classify(transfer, code);
    events = transfer->events;
    baton = transfer->baton;
    retire(transfer);
    if (baton) {
        events->done(baton, end, curl_easy_strerror(code));
    }
}
