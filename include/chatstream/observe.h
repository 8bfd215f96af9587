/* SPDX-License-Identifier: Apache-2.0 */
/*
 * observe: what happened, told to whoever wants to know, and what an operator sees of it. The data path calls cs_tell_…; it knows
 * neither journal nor database nor metrics.
 */
#ifndef CHATSTREAM_OBSERVE_H
#define CHATSTREAM_OBSERVE_H

#include <httpd.h>

#include "chatstream/config.h"
#include "chatstream/log.h"

/* ---- telling ----------------------------------------------------------------------------------------------------- */

/* Borrowed for the time of the call. */
typedef struct {
    const char *name;    /* of the user; NULL: nobody said who he is */
    const char *email;   /* from a token; NULL */
    const char *address; /* the client's */
} cs_person_t;

typedef struct {
    uint32_t slot;
    const cs_dir_config_t *conf;
    server_rec *server;
    cs_person_t person;
    const char *connection_id; /* NULL: none */
    const char *conversation_id;
    const char *message;
    const char *upstream;
} cs_opened_t;

typedef struct {
    const cs_log_ending_t *ending;
    const char *upstream;
    cs_buf_t *answer; /* the whole of it, as far as it came; emptied. NULL: nobody gathered it */
    int is_partial;
} cs_closed_t;

typedef enum {
    CS_INCIDENT_RECONNECT,
    CS_INCIDENT_RATE_LIMITED,
    CS_INCIDENT_AUTH_FAILED,
    CS_INCIDENT_AUTH_OK,
    CS_INCIDENT_DENIED,
    CS_INCIDENT_CANCEL,
    CS_INCIDENT_FLAG_CHANGE
} cs_incident_e;

typedef struct {
    cs_incident_e kind;
    const cs_dir_config_t *conf; /* NULL: of no location */
    cs_person_t person;
    const char *stream_id; /* NULL: about none */
    const char *code;      /* of the answer; NULL */
    const char *detail;    /* members of a JSON object, "\"file\":\"…\""; NULL */
} cs_incident_t;

typedef struct {
    /*
     * Request thread: a slot is claimed, no upstream was asked. 0: it must not go on, nobody could say later that it was. `*ticket` goes to
     * `closed`.
     */
    int (*opened)(const cs_opened_t *what, void **ticket);
    /* Loop thread, or the request thread of a stream that never started. Once for each `opened` that was not refused. */
    void (*closed)(void *ticket, const cs_closed_t *what);
    /* Any thread. */
    void (*incident)(const cs_incident_t *what);
} cs_observer_t;

/* Before the first request of a process; NULL: nobody wants to know. */
void cs_observer_set(const cs_observer_t *observer);
int cs_tell_opened(const cs_opened_t *what, void **ticket);
void cs_tell_closed(void *ticket, const cs_closed_t *what);
void cs_tell_incident(const cs_incident_t *what);

/* ---- showing (request threads) ------------------------------------------------------------------------------------- */

/* As in force for the location that was asked. */
typedef struct {
    int enabled;
    int share;  /* hundredths of a percent */
    int broken; /* the flag file is, and an older state holds */
} cs_observed_flags_t;

/* Answers chatstream-health. `log` NULL: this child cannot serve. */
int cs_observe_health(request_rec *r, cs_log_t *log, const cs_observed_flags_t *flags);

#endif
