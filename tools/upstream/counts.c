/* SPDX-License-Identifier: Apache-2.0 */
#include "counts.h"

#include <string.h>
#include <strings.h>

#define REMEMBERED 50
#define BODY_KEPT  (1024 * 1024)

typedef struct request_t {
    uint64_t n;
    up_buf_t line; /* method, path and query, each with its NUL */
    up_buf_t fields;
    up_buf_t body;
} request_t;

static uint64_t counts[UP_COUNTS];
static uint64_t connections; /* those that carried a request of this epoch */
static unsigned epoch = 1;
static request_t remembered[REMEMBERED]; /* number n is at n modulo REMEMBERED; n == 0: nothing there */
static up_waiter_t *waiting;

static bool reached(const up_exchange_t *x)
{
    return x->count == UP_ACTIVE ? counts[UP_ACTIVE] == x->wanted : counts[x->count] >= x->wanted;
}

static void changed(void)
{
    up_waiter_t *waiter = waiting;

    while (waiter != NULL) {
        up_waiter_t *next = waiter->next;
        up_exchange_t *x = UP_CONTAINER(waiter, up_exchange_t, waiter);

        if (reached(x)) {
            up_exchange_resume(x);
        }
        waiter = next;
    }
}

static void remember(const up_exchange_t *x)
{
    request_t *r = &remembered[x->n % REMEMBERED];
    const up_buf_t *head = &x->req.head;
    const up_buf_t *body = &x->req.body;

    r->n = x->n;
    up_buf_clear(&r->line);
    up_buf_clear(&r->fields);
    up_buf_clear(&r->body);
    up_buf_add(&r->line, x->req.method, strlen(x->req.method) + 1);
    up_buf_add(&r->line, x->req.path, strlen(x->req.path) + 1);
    up_buf_add(&r->line, x->req.query, strlen(x->req.query) + 1);
    up_buf_add(&r->fields, head->data + head->off + x->req.fields, head->len - x->req.fields);
    up_buf_add(&r->body, up_buf_data(body), body->len < BODY_KEPT ? body->len : BODY_KEPT);
}

void up_counts_begin(up_exchange_t *x)
{
    x->counted = true;
    x->epoch = epoch;
    x->n = ++counts[UP_REQUESTS];
    counts[UP_ACTIVE]++;
    if (x->conn_epoch != epoch) {
        x->conn_epoch = epoch;
        connections++;
    }
    remember(x);
    changed();
}

void up_counts_end(up_exchange_t *x, up_outcome_t outcome)
{
    if (!x->counted || x->epoch != epoch) {
        return;
    }
    x->counted = false;
    counts[UP_ACTIVE]--;
    if (outcome == UP_OUT_FINISHED) {
        counts[UP_FINISHED]++;
    }
    else if (outcome == UP_OUT_ABORTED) {
        counts[UP_ABORTED]++;
    }
    changed();
}

void up_counts_reset(void)
{
    size_t i;

    memset(counts, 0, sizeof counts);
    connections = 0;
    epoch++;
    for (i = 0; i < REMEMBERED; i++) {
        remembered[i].n = 0;
    }
    changed();
}

void up_counts_report(up_buf_t *out)
{
    up_buf_printf(out, "{\"requests\":%llu,\"active\":%llu,\"finished\":%llu,\"aborted\":%llu,\"connections\":%llu}\n",
                  (unsigned long long)counts[UP_REQUESTS], (unsigned long long)counts[UP_ACTIVE],
                  (unsigned long long)counts[UP_FINISHED], (unsigned long long)counts[UP_ABORTED],
                  (unsigned long long)connections);
}

static void json_string(up_buf_t *out, const char *text, size_t len)
{
    up_buf_str(out, "\"");
    up_buf_json(out, text, len);
    up_buf_str(out, "\"");
}

/* A field that occurs twice is joined with a comma, as HTTP says it may be. */
static void json_fields(up_buf_t *out, const up_buf_t *fields)
{
    up_request_t view = {.head = *fields, .fields = 0};
    const char *name;
    const char *value;
    size_t name_len;
    size_t value_len;
    size_t at = 0;
    bool first = true;

    while (up_http_field(&view, &at, &name, &name_len, &value, &value_len)) {
        size_t again = 0;
        const char *other;
        const char *other_value;
        size_t other_len;
        size_t other_value_len;
        size_t here = (size_t)(name - fields->data - fields->off);
        bool seen = false;
        size_t i;

        for (i = 0; i < name_len; i++) {
            fields->data[fields->off + here + i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] | 0x20 : name[i]);
        }
        while (up_http_field(&view, &again, &other, &other_len, &other_value, &other_value_len) && other < name) {
            seen = seen || (other_len == name_len && strncasecmp(other, name, name_len) == 0);
        }
        if (seen) {
            continue;
        }
        up_buf_str(out, first ? "" : ",");
        first = false;
        json_string(out, name, name_len);
        up_buf_str(out, ":\"");
        up_buf_json(out, value, value_len);
        again = at;
        while (up_http_field(&view, &again, &other, &other_len, &other_value, &other_value_len)) {
            if (other_len == name_len && strncasecmp(other, name, name_len) == 0) {
                up_buf_str(out, ", ");
                up_buf_json(out, other_value, other_value_len);
            }
        }
        up_buf_str(out, "\"");
    }
}

void up_counts_requests(up_buf_t *out)
{
    uint64_t n = counts[UP_REQUESTS] > REMEMBERED ? counts[UP_REQUESTS] - REMEMBERED + 1 : 1;
    bool first = true;

    up_buf_str(out, "[");
    for (; n <= counts[UP_REQUESTS]; n++) {
        const request_t *r = &remembered[n % REMEMBERED];
        const char *method = r->line.data;
        const char *path = method + strlen(method) + 1;
        const char *query = path + strlen(path) + 1;

        up_buf_str(out, first ? "\n" : ",\n");
        first = false;
        up_buf_printf(out, "{\"n\":%llu,\"method\":", (unsigned long long)r->n);
        json_string(out, method, strlen(method));
        up_buf_str(out, ",\"path\":");
        json_string(out, path, strlen(path));
        up_buf_str(out, ",\"query\":");
        json_string(out, query, strlen(query));
        up_buf_str(out, ",\"headers\":{");
        json_fields(out, &r->fields);
        up_buf_str(out, "},\"body\":");
        json_string(out, up_buf_data(&r->body), r->body.len);
        up_buf_str(out, "}");
    }
    up_buf_str(out, "]\n");
}

static up_step_t wait_step(up_exchange_t *x)
{
    up_buf_t report = {0};

    if (!reached(x) && up_loop_clock() < x->started) {
        up_waiter_add(&waiting, &x->waiter);
        up_exchange_sleep(x, x->started);
        return UP_WAIT;
    }
    up_counts_report(&report);
    up_exchange_json(x, reached(x) ? 200 : 408, report.data, report.len);
    up_buf_free(&report);
    return UP_WROTE;
}

void up_counts_wait(up_exchange_t *x, up_count_t which, uint64_t wanted, uint64_t timeout)
{
    x->count = (int)which;
    x->wanted = wanted;
    x->started = up_loop_clock() + timeout * UP_MS;
    x->step = wait_step;
}

void up_counts_free(void)
{
    size_t i;

    for (i = 0; i < REMEMBERED; i++) {
        up_buf_free(&remembered[i].line);
        up_buf_free(&remembered[i].fields);
        up_buf_free(&remembered[i].body);
    }
}
