/* SPDX-License-Identifier: Apache-2.0 */
/* From what the data path tells to facts. Request threads journal by themselves; the loop thread leaves that to the recorder. */
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <apr_strings.h>
#include <httpd.h>
#include <http_log.h>

#include "chain.h"
#include "recorder.h"

APLOG_USE_MODULE(chatstream);

#define FACT_BASE_MAX 2000
#define LINGER        apr_time_from_sec(1)
#define KEY_SIZE      (5 + 32 + 1)

/* Anybody can make incidents, by a wrong token for one; a journal that nobody empties must not fill the disk with them. */
#define INCIDENTS_TIMES 2

/* ---- persons ------------------------------------------------------------------------------------------------------ */

typedef struct {
    char key[KEY_SIZE];
    char network[64];
} anonymous_t;

/* A key that is the same for the same address, and is not the address. With ChatStreamHashKey nobody can try them all. */
static const char *anonymous_key(const cs_dir_config_t *conf, const char *address, char key[KEY_SIZE])
{
    const cs_secret_t *secret = conf ? conf->hash_key : NULL;
    char text[80], hash[65];

    apr_snprintf(text, sizeof(text), "address %s", address);
    cs_query_hash(hash, secret ? secret->bytes : NULL, secret ? secret->len : 0, text, strlen(text));
    memcpy(key, "anon-", 5);
    memcpy(key + 5, hash, 32);
    key[37] = '\0';
    return key;
}

/* Of somebody without a name only the network is kept: 203.0.113.0/24, 2001:db8:1::/48. */
static const char *network_of(const char *address, char out[64])
{
    unsigned char bytes[16];
    char text[INET6_ADDRSTRLEN];

    if (inet_pton(AF_INET, address, bytes) == 1) {
        bytes[3] = 0;
        inet_ntop(AF_INET, bytes, text, sizeof(text));
        apr_snprintf(out, 64, "%s/24", text);
    }
    else if (inet_pton(AF_INET6, address, bytes) == 1) {
        memset(bytes + 6, 0, 10);
        inet_ntop(AF_INET6, bytes, text, sizeof(text));
        apr_snprintf(out, 64, "%s/48", text);
    }
    else {
        return NULL;
    }
    return out;
}

static void set_person(cs_fact_t *fact, const cs_dir_config_t *conf, const cs_person_t *person, anonymous_t *buf)
{
    cs_fact_set(fact, CS_TXT_USER_KEY,
                person->name      ? person->name
                : person->address ? anonymous_key(conf, person->address, buf->key)
                                  : NULL);
    cs_fact_set(fact, CS_TXT_USER_EMAIL, person->name ? person->email : NULL);
}

/* ---- opening ------------------------------------------------------------------------------------------------------ */

int cs_recorder_enter(void)
{
    atomic_fetch_add(&cs_recorder.inside, 1);
    if (atomic_load(&cs_recorder.on)) {
        return 1;
    }
    atomic_fetch_sub(&cs_recorder.inside, 1);
    return 0;
}

void cs_recorder_leave(void)
{
    atomic_fetch_sub(&cs_recorder.inside, 1);
}

int cs_recorder_is_full(unsigned times)
{
    uint64_t own = cs_journal_pending(cs_recorder.journal, NULL), then = atomic_load(&cs_recorder.usage_own);

    return atomic_load(&cs_recorder.usage) + (own > then ? own - then : 0)
           > (uint64_t)cs_recorder.conf.journal_max * times;
}

static void destroy_ticket(cs_ticket_t *ticket)
{
    free(ticket->base);
    free(ticket->answer);
    free(ticket);
}

static int journal_failed(apr_status_t rv)
{
    static _Atomic apr_time_t said;
    apr_time_t now = cs_clock_mono(), last = atomic_load(&said);

    if (now - last > apr_time_from_sec(10) && atomic_compare_exchange_strong(&said, &last, now)) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, cs_recorder.server,
                     "chatstream: the journal in '%s' cannot be written; streams that would go unrecorded are %s",
                     cs_recorder.conf.state_dir, cs_recorder.conf.journal_admits ? "admitted" : "refused");
    }
    return cs_recorder.conf.journal_admits;
}

static int go_unrecorded(void)
{
    if (cs_recorder.conf.journal_admits) {
        atomic_fetch_add(&cs_recorder.unrecorded, 1);
    }
    return cs_recorder.conf.journal_admits;
}

/* On the open list first: a stream that only stands there is closed by whoever finds it, one that stands nowhere is lost. */
static apr_status_t write_down(cs_ticket_t *ticket, cs_fact_t *fact, const char *message)
{
    cs_buf_t base;
    apr_status_t rv;

    cs_buf_init(&base, FACT_BASE_MAX);
    rv = cs_fact_encode(fact, &base);
    if (!rv) {
        rv = cs_open_list_add(cs_recorder.open, base.data, base.len, &ticket->place);
    }
    if (rv) {
        cs_buf_free(&base);
        return rv;
    }
    ticket->base = cs_buf_detach(&base, &ticket->base_len);
    cs_fact_set(fact, CS_TXT_MESSAGE, message);
    rv = cs_journal_append(cs_recorder.journal, fact);
    if (rv) {
        cs_open_list_remove(cs_recorder.open, ticket->place);
    }
    return rv;
}

/* Inside. */
static int write_opened(const cs_opened_t *what, void **out)
{
    const cs_dir_config_t *conf = what->conf;
    cs_ticket_t *ticket;
    char id[CS_UUID_LEN + 1], hash[65];
    anonymous_t anonymous;
    apr_time_t created_at;
    apr_status_t rv;
    cs_fact_t fact;
    cs_uuid_t uuid;
    uint32_t format;

    if (cs_recorder_is_full(1)) {
        return go_unrecorded();
    }
    cs_log_slot_info(cs_recorder.log, what->slot, &uuid, &created_at, &format);
    cs_uuid_format(id, &uuid);
    cs_query_hash(hash, conf->hash_key ? conf->hash_key->bytes : NULL, conf->hash_key ? conf->hash_key->len : 0,
                  what->message, strlen(what->message));
    cs_fact_init(&fact, CS_FACT_OPEN);
    fact.number[CS_NUM_WANTS] = conf->record;
    fact.number[CS_NUM_AT] = created_at;
    set_person(&fact, conf, &what->person, &anonymous);
    cs_fact_set(&fact, CS_TXT_STREAM_ID, id);
    cs_fact_set(&fact, CS_TXT_PROFILE, conf->profile);
    cs_fact_set(&fact, CS_TXT_CONNECTION_ID, what->connection_id);
    cs_fact_set(&fact, CS_TXT_CONVERSATION_ID, what->conversation_id);
    cs_fact_set(&fact, CS_TXT_QUERY_HASH, hash);
    cs_fact_set(&fact, CS_TXT_UPSTREAM, what->upstream);
    cs_fact_set(&fact, CS_TXT_NODE, cs_recorder.node);
    cs_fact_set(&fact, CS_TXT_EVENT, "stream_open");
    ticket = calloc(1, sizeof(*ticket));
    rv = APR_ENOMEM;
    if (!ticket || (rv = write_down(ticket, &fact, conf->record & CS_RECORD_TRANSCRIPT ? what->message : NULL))) {
        if (ticket) {
            destroy_ticket(ticket);
        }
        journal_failed(rv);
        return go_unrecorded();
    }
    cs_log_hold(cs_recorder.log, what->slot);
    ticket->slot = what->slot;
    *out = ticket;
    return 1;
}

static int opened(const cs_opened_t *what, void **out)
{
    int goes_on;

    if (!what->conf->record) {
        return 1;
    }
    if (!cs_recorder_enter()) {
        return 0; /* the child ends, and so would the stream */
    }
    goes_on = write_opened(what, out);
    cs_recorder_leave();
    return goes_on;
}

/* ---- closing ------------------------------------------------------------------------------------------------------ */

static void closed(void *baton, const cs_closed_t *what)
{
    cs_ticket_t *ticket = baton;

    ticket->ending = *what->ending;
    apr_cpystrn(ticket->upstream, what->upstream ? what->upstream : "", sizeof(ticket->upstream));
    if (what->answer) {
        ticket->answer = cs_buf_detach(what->answer, &ticket->answer_len);
        ticket->is_partial = what->is_partial;
    }
    ticket->until = cs_clock_mono() + LINGER;
    ticket->next = atomic_load_explicit(&cs_recorder.told, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&cs_recorder.told, &ticket->next, ticket)) {}
    if (atomic_exchange(&cs_recorder.recorder_sleeps, 0)) {
        sem_post(&cs_recorder.wake);
    }
}

/* ---- incidents ---------------------------------------------------------------------------------------------------- */

static const struct {
    const char *event;
    int with_address;
} incidents[] = {
    [CS_INCIDENT_RECONNECT] = {"reconnect", 0},     [CS_INCIDENT_RATE_LIMITED] = {"rate_limited", 1},
    [CS_INCIDENT_AUTH_FAILED] = {"auth_failed", 1}, [CS_INCIDENT_AUTH_OK] = {"auth_ok", 1},
    [CS_INCIDENT_DENIED] = {"denied", 1},           [CS_INCIDENT_CANCEL] = {"cancel", 0},
    [CS_INCIDENT_FLAG_CHANGE] = {"flag_change", 0},
};

/* Inside. */
static void write_incident(const cs_incident_t *what)
{
    anonymous_t anonymous;
    cs_fact_t fact;
    char *detail = NULL;
    apr_status_t rv;

    if (cs_recorder_is_full(INCIDENTS_TIMES)) {
        atomic_fetch_add(&cs_recorder.unrecorded, 1);
        return;
    }
    cs_fact_init(&fact, CS_FACT_INCIDENT);
    fact.number[CS_NUM_WANTS] = CS_WANT_AUDIT;
    fact.number[CS_NUM_AT] = apr_time_now();
    set_person(&fact, what->conf, &what->person, &anonymous);
    cs_fact_set(&fact, CS_TXT_STREAM_ID, what->stream_id);
    cs_fact_set(&fact, CS_TXT_EVENT, incidents[what->kind].event);
    if (incidents[what->kind].with_address && what->person.address) {
        cs_fact_set(&fact, CS_TXT_IP,
                    what->person.name ? what->person.address : network_of(what->person.address, anonymous.network));
    }
    if (what->code || what->detail) {
        size_t size = (what->code ? strlen(what->code) : 0) + (what->detail ? strlen(what->detail) : 0) + 32;

        detail = malloc(size);
        if (detail) {
            apr_snprintf(detail, size, "{%s%s%s%s%s}", what->code ? "\"code\":\"" : "", what->code ? what->code : "",
                         what->code ? "\"" : "", what->code && what->detail ? "," : "",
                         what->detail ? what->detail : "");
            cs_fact_set(&fact, CS_TXT_DETAIL, detail);
        }
    }
    rv = cs_journal_append(cs_recorder.journal, &fact);
    if (rv) {
        journal_failed(rv);
    }
    free(detail);
}

static void incident(const cs_incident_t *what)
{
    if ((!what->conf || what->conf->record & CS_RECORD_AUDIT) && cs_recorder_enter()) {
        write_incident(what);
        cs_recorder_leave();
    }
}

const cs_observer_t cs_record_observer = {opened, closed, incident};
