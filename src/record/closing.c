/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The recorder thread: closing facts of this child's streams into its journal, chains of dead writers, fsync. It is woken when there is
 * something to do and it sleeps; otherwise it looks every few milliseconds, so that a busy child pays for no wake-ups.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>
#include <httpd.h>
#include <http_log.h>

#include "recorder.h"

APLOG_USE_MODULE(chatstream);

#define BUSY_NAP   apr_time_from_msec(10)
#define IDLE_NAP   apr_time_from_msec(500)
#define ROUND      apr_time_from_sec(1) /* adoption, fsync, usage */
#define HELD_LIMIT 64                   /* journal errors: tickets are kept and tried again */

static int64_t or_none(int64_t value)
{
    return value < 0 ? CS_NUM_NONE : value;
}

void cs_recorder_fill_close(cs_fact_t *fact, const cs_log_ending_t *ending, const cs_log_told_t *told,
                            char detail[CS_CLOSE_DETAIL])
{
    apr_snprintf(detail, CS_CLOSE_DETAIL,
                 ending->code[0] ? "{\"status\":\"%s\",\"code\":\"%s\"}" : "{\"status\":\"%s\"}",
                 cs_state_name((cs_state_e)ending->state), ending->code);
    cs_fact_set(fact, CS_TXT_DETAIL, detail);
    fact->kind = CS_FACT_CLOSE;
    cs_fact_set(fact, CS_TXT_MESSAGE, NULL);
    cs_fact_set(fact, CS_TXT_EVENT, "stream_close");
    cs_fact_set(fact, CS_TXT_STATUS, cs_state_name((cs_state_e)ending->state));
    cs_fact_set(fact, CS_TXT_ERROR_CODE, ending->code[0] ? ending->code : NULL);
    fact->number[CS_NUM_FIRST_CHUNK_MS] = or_none(ending->first_token_ms);
    fact->number[CS_NUM_DURATION_MS] = or_none(ending->duration_ms);
    fact->number[CS_NUM_CHUNK_COUNT] = (int64_t)ending->tokens;
    fact->number[CS_NUM_PROMPT_TOKENS] = or_none(ending->prompt_tokens);
    fact->number[CS_NUM_COMPLETION_TOKENS] = or_none(ending->completion_tokens);
    fact->number[CS_NUM_BYTES_SENT] = told ? (int64_t)told->bytes_sent : CS_NUM_NONE;
    fact->number[CS_NUM_RECONNECTS] = told ? (int64_t)told->reconnects : CS_NUM_NONE;
}

static apr_status_t write_closing(cs_ticket_t *ticket)
{
    char detail[CS_CLOSE_DETAIL];
    cs_log_told_t told;
    cs_fact_t fact;
    apr_status_t rv = cs_fact_decode(&fact, ticket->base, ticket->base_len);

    if (rv) {
        return rv;
    }
    cs_log_told(cs_recorder.log, ticket->slot, &told);
    cs_recorder_fill_close(&fact, &ticket->ending, &told, detail);
    fact.number[CS_NUM_AT] = apr_time_now();
    if (ticket->upstream[0]) {
        cs_fact_set(&fact, CS_TXT_UPSTREAM, ticket->upstream);
    }
    if (ticket->answer) {
        fact.text[CS_TXT_ANSWER] = (cs_text_t){ticket->answer, ticket->answer_len};
        fact.number[CS_NUM_PARTIAL] = ticket->is_partial;
    }
    return cs_journal_append(cs_recorder.journal, &fact);
}

/* The list last: whoever finds a stream there releases its slot, one that stands nowhere would be held for ever. */
static void forget(cs_ticket_t *ticket)
{
    cs_log_release(cs_recorder.log, ticket->slot);
    cs_open_list_remove(cs_recorder.open, ticket->place);
    cs_journal_settled(cs_recorder.journal);
    free(ticket->base);
    free(ticket->answer);
    free(ticket);
}

/* Whoever reads it still will have been sent more in a moment: that belongs into the row. */
static int has_readers(const cs_ticket_t *ticket, apr_time_t now)
{
    cs_log_told_t told;

    if (now >= ticket->until || atomic_load(&cs_recorder.stopping)) {
        return 0;
    }
    cs_log_told(cs_recorder.log, ticket->slot, &told);
    return told.readers > 0;
}

/* Takes what was told since the last time, oldest first, behind what is waiting already. */
static void take_told(cs_ticket_t **waiting)
{
    cs_ticket_t *told = atomic_exchange(&cs_recorder.told, NULL), *turned = NULL;

    while (told) {
        cs_ticket_t *next = told->next;

        told->next = turned;
        turned = told;
        told = next;
    }
    while (*waiting) {
        waiting = &(*waiting)->next;
    }
    *waiting = turned;
}

/* What never will be taken as it is: without what came from elsewhere. */
static apr_status_t write_what_can_be(cs_ticket_t *ticket)
{
    apr_status_t rv = write_closing(ticket);

    if (rv == APR_EINVAL) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, cs_recorder.server,
                     "chatstream: the end of a stream cannot be journalled as it is: its answer is left out");
        free(ticket->answer);
        ticket->answer = NULL;
        ticket->upstream[0] = '\0';
        rv = write_closing(ticket);
    }
    if (rv == APR_EINVAL) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, cs_recorder.server,
                     "chatstream: the end of a stream cannot be journalled at all: its row stays active");
        rv = APR_SUCCESS;
    }
    return rv;
}

/* A full disk is no reason to forget: what cannot be journalled is tried again. */
static void close_told(cs_ticket_t **waiting)
{
    apr_time_t now = cs_clock_mono();

    while (*waiting) {
        cs_ticket_t *ticket = *waiting;
        apr_status_t rv;

        if (has_readers(ticket, now)) {
            waiting = &ticket->next;
            continue;
        }
        cs_journal_unsettled(cs_recorder.journal);
        rv = write_what_can_be(ticket);
        if (rv) {
            static apr_time_t said;

            cs_journal_settled(cs_recorder.journal);
            if (now - said > apr_time_from_sec(10)) {
                said = now;
                ap_log_error(APLOG_MARK, APLOG_CRIT, rv, cs_recorder.server,
                             "chatstream: the journal in '%s' cannot be written; the end of a stream waits",
                             cs_recorder.conf.state_dir);
            }
            return;
        }
        *waiting = ticket->next;
        forget(ticket);
    }
}

static void look_at_usage(void)
{
    uint64_t bytes = 0;
    apr_time_t oldest = 0;
    uint64_t own = cs_journal_pending(cs_recorder.journal, NULL);

    if (!cs_journal_usage(cs_recorder.conf.state_dir, &bytes, &oldest)) {
        atomic_store(&cs_recorder.usage_own, own);
        atomic_store(&cs_recorder.usage, bytes);
        atomic_store(&cs_recorder.oldest, oldest);
    }
}

/* From here on the first that somebody stands on. The store thread leaves those alone, and no others. */
static cs_adopted_t *with_open(cs_adopted_t *adopted)
{
    while (adopted && !adopted->open) {
        adopted = adopted->next;
    }
    return adopted;
}

static void close_adopted(void)
{
    cs_adopted_t *adopted, *next;

    pthread_mutex_lock(&cs_recorder.lock);
    adopted = with_open(cs_recorder.adopted);
    pthread_mutex_unlock(&cs_recorder.lock);
    while (adopted) {
        int closed = cs_recorder_close_lost(adopted);

        if (closed) {
            cs_open_list_close(adopted->open, 1); /* while the chain is ours: a list without one is found by nobody */
        }
        pthread_mutex_lock(&cs_recorder.lock);
        next = with_open(adopted->next);
        if (closed) {
            adopted->open = NULL; /* from now on it may go */
        }
        pthread_mutex_unlock(&cs_recorder.lock);
        adopted = next;
    }
}

static void each_round(void)
{
    if (cs_recorder.conf.journal_sync == CS_JOURNAL_SYNC_SECOND) {
        cs_open_list_sync(cs_recorder.open);
        cs_journal_sync(cs_recorder.journal);
    }
    while (!atomic_load(&cs_recorder.stopping) && cs_recorder_adopt()) {}
    close_adopted();
    look_at_usage();
}

void cs_recorder_nap(sem_t *wake, apr_time_t time)
{
    apr_time_t when = apr_time_now() + time;
    struct timespec until = {(time_t)apr_time_sec(when), (long)apr_time_usec(when) * 1000};

    sem_timedwait(wake, &until);
}

void *cs_recorder_run(void *unused)
{
    cs_adopted_t own = {NULL, cs_recorder.journal, cs_recorder.open};
    cs_ticket_t *waiting = NULL;
    apr_time_t round = 0, tries = 0;
    int left;

    (void)unused;
    while (!atomic_load(&cs_recorder.stopping)) {
        if (cs_clock_mono() - round >= ROUND) {
            each_round();
            round = cs_clock_mono();
        }
        take_told(&waiting);
        close_told(&waiting);
        if (waiting) {
            cs_recorder_nap(&cs_recorder.wake, BUSY_NAP);
            continue;
        }
        atomic_store(&cs_recorder.recorder_sleeps, 1);
        if (!atomic_load(&cs_recorder.told) && !atomic_load(&cs_recorder.stopping)) {
            cs_recorder_nap(&cs_recorder.wake, IDLE_NAP);
        }
        atomic_store(&cs_recorder.recorder_sleeps, 0);
        apr_sleep(BUSY_NAP); /* whoever woke us is seldom alone */
    }
    do {
        take_told(&waiting);
        close_told(&waiting);
    } while (waiting && ++tries < HELD_LIMIT && (apr_sleep(BUSY_NAP), 1));
    /* A request that had claimed a slot when the loop was stopped never got to tell; detaching has ended its stream. */
    left = waiting ? 0 : !cs_recorder_close_lost(&own);
    cs_recorder.left_open = waiting || left;
    atomic_store(&cs_recorder.recorder_ended, 1);
    sem_post(&cs_recorder.store_wake);
    return NULL;
}
