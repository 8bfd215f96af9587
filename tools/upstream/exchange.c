/* SPDX-License-Identifier: Apache-2.0 */
#include "exchange.h"

#include "run.h"

#include <stdlib.h>
#include <string.h>

void up_exchange_head(up_exchange_t *x, unsigned status, const char *content_type, const char *extra)
{
    up_buf_t *out = &x->conn->out;

    x->head_sent = true;
    if (status == 204 || status == 304 || (x->req.method != NULL && strcmp(x->req.method, "HEAD") == 0)) {
        x->framing = UP_NO_BODY;
    }
    else if (x->req.minor == 0 && x->framing == UP_CHUNKED) {
        x->framing = UP_TO_CLOSE;
    }
    if (x->framing == UP_TO_CLOSE) {
        x->keep_alive = false;
    }
    up_buf_printf(out, "HTTP/1.1 %u %s\r\n", status, up_http_reason((int)status));
    if (content_type != NULL) {
        up_buf_printf(out, "Content-Type: %s\r\n", content_type);
    }
    up_buf_str(out, "Cache-Control: no-cache\r\n");
    if (x->framing == UP_CHUNKED) {
        up_buf_str(out, "Transfer-Encoding: chunked\r\n");
    }
    else if (x->framing == UP_LENGTH) {
        up_buf_printf(out, "Content-Length: %llu\r\n", (unsigned long long)x->length);
    }
    if (!x->keep_alive) {
        up_buf_str(out, "Connection: close\r\n");
    }
    if (extra != NULL) {
        up_buf_str(out, extra);
    }
    up_buf_add(out, "\r\n", 2);
}

static void chunk_size(up_buf_t *out, size_t len)
{
    char digits[20];
    char *p = digits + sizeof digits;

    *--p = '\n';
    *--p = '\r';
    do {
        *--p = "0123456789abcdef"[len & 15];
        len >>= 4;
    } while (len > 0);
    up_buf_add(out, p, (size_t)(digits + sizeof digits - p));
}

void up_exchange_body(up_exchange_t *x, const char *data, size_t len)
{
    up_buf_t *out = &x->conn->out;

    if (len == 0 || x->framing == UP_NO_BODY) {
        return;
    }
    if (x->framing == UP_CHUNKED) {
        chunk_size(out, len);
        up_buf_add(out, data, len);
        up_buf_add(out, "\r\n", 2);
        return;
    }
    if (x->framing == UP_LENGTH) {
        x->overrun = x->overrun || len > x->length;
        x->length -= len < x->length ? len : x->length;
    }
    up_buf_add(out, data, len);
}

void up_exchange_body_end(up_exchange_t *x)
{
    if (x->framing == UP_CHUNKED) {
        up_buf_str(&x->conn->out, "0\r\n\r\n");
    }
    if (x->framing == UP_LENGTH && (x->length > 0 || x->overrun)) {
        x->keep_alive = false;
    }
}

static up_step_t say_json(up_exchange_t *x)
{
    up_buf_t text = x->text;

    x->framing = UP_LENGTH;
    x->length = text.len;
    up_exchange_head(x, x->status, "application/json", NULL);
    up_exchange_body(x, up_buf_data(&text), text.len);
    return UP_END;
}

void up_exchange_json(up_exchange_t *x, unsigned status, const char *text, size_t len)
{
    up_buf_clear(&x->text);
    up_buf_add(&x->text, text, len);
    x->status = status;
    x->step = say_json;
}

void up_exchange_error(up_exchange_t *x, unsigned status, const char *message)
{
    up_buf_t body = {0};

    up_buf_str(&body, "{\"error\":{\"message\":\"");
    up_buf_json(&body, message, strlen(message));
    up_buf_str(&body, "\",\"type\":\"simulator_error\"}}\n");
    up_exchange_json(x, status, body.data, body.len);
    up_buf_free(&body);
}

void up_exchange_sleep(up_exchange_t *x, uint64_t due)
{
    up_loop_timer_set(&x->timer, due);
}

void up_exchange_resume(up_exchange_t *x)
{
    up_waiter_remove(&x->waiter);
    up_loop_timer_clear(&x->timer);
    up_loop_task_queue(&x->wake);
}

void up_exchange_reset(up_exchange_t *x)
{
    up_waiter_remove(&x->waiter);
    up_loop_timer_clear(&x->timer);
    up_loop_task_clear(&x->wake);
    up_run_free(x->run);
    x->run = NULL;
    up_http_reset(&x->req);
    up_dialect_stop(&x->speaker);
    free(x->question);
    x->question = NULL;
    up_buf_free(&x->text);
    x->step = NULL;
    x->busy = false;
    x->waiting = false;
    x->ending = false;
    x->counted = false;
    x->head_sent = false;
    x->overrun = false;
    x->framing = UP_CHUNKED;
    x->next = 0;
    x->conn->split = 0;
}

void up_waiter_add(up_waiter_t **list, up_waiter_t *waiter)
{
    up_waiter_remove(waiter);
    waiter->next = *list;
    waiter->link = list;
    if (waiter->next != NULL) {
        waiter->next->link = &waiter->next;
    }
    *list = waiter;
}

void up_waiter_remove(up_waiter_t *waiter)
{
    if (waiter->link == NULL) {
        return;
    }
    *waiter->link = waiter->next;
    if (waiter->next != NULL) {
        waiter->next->link = waiter->link;
    }
    waiter->link = NULL;
    waiter->next = NULL;
}
