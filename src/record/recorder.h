/* SPDX-License-Identifier: Apache-2.0 */
/* What the server's files of this room share: one recorder a child. Fields say who writes them. */
#ifndef CS_RECORD_RECORDER_H
#define CS_RECORD_RECORDER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "chatstream/record.h"
#include "journal.h"
#include "open_list.h"
#include "store.h"

/* A chain somebody else began and this child finishes. */
typedef struct cs_adopted_t {
    struct cs_adopted_t *next;
    cs_journal_t *journal;
    cs_open_list_t *open; /* lock; the recorder's until it is NULL: nobody stands on it any more */
} cs_adopted_t;

/* A stream between its opening and its closing fact. */
typedef struct cs_ticket_t {
    struct cs_ticket_t *next;
    uint32_t slot;
    uint32_t place; /* on the open list */
    char *base;     /* the opening fact without message, encoded */
    size_t base_len;
    cs_log_ending_t ending;
    char upstream[256];
    char *answer; /* NULL: none was gathered */
    size_t answer_len;
    int is_partial;
    apr_time_t until; /* mono: readers may take the last bytes until then */
} cs_ticket_t;

typedef struct {
    _Atomic int on;          /* cleared when the child ends */
    _Atomic unsigned inside; /* threads between enter and leave */
    /* constant in a child: */
    server_rec *server;
    apr_pool_t *pool;
    cs_log_t *log;
    uint32_t child;
    cs_server_config_t conf;
    char node[256];
    cs_journal_t *journal;
    cs_open_list_t *open;
    /* any thread: */
    _Atomic(cs_ticket_t *) told;
    _Atomic int recorder_sleeps;
    _Atomic int stopping, recorder_ended;
    _Atomic apr_time_t asks;    /* mono: since when the store thread waits for an answer; 0: it does not */
    _Atomic uint64_t usage;     /* bytes in the directory, as of the last look */
    _Atomic uint64_t usage_own; /* of them in our journal */
    _Atomic apr_time_t oldest;  /* wall; 0: nothing waits */
    _Atomic int database;       /* cs_database_e */
    _Atomic uint64_t unrecorded, saved, refused;
    sem_t wake, store_wake; /* posted also by a request thread that a signal handler may interrupt */
    /* lock: */
    pthread_mutex_t lock;
    cs_adopted_t *adopted; /* the recorder adds, the store thread removes those without open list */
    int left_open;         /* recorder thread, at its end: closings that could not be journalled */
} cs_recorder_t;

extern cs_recorder_t cs_recorder;

/* observer.c */
extern const cs_observer_t cs_record_observer;
/*
 * Whoever uses the journal of this child stands between these two; 0: it has ended. The end waits for those inside, or what they write
 * after the last look at the open list would stay open for ever.
 */
int cs_recorder_enter(void);
void cs_recorder_leave(void);
/* Inside. More than `times` ChatStreamJournalMax waits. */
int cs_recorder_is_full(unsigned times);

/* closing.c: the recorder thread */
void *cs_recorder_run(void *unused);
/* Sleeps until `wake` is posted, `time` at most. */
void cs_recorder_nap(sem_t *wake, apr_time_t time);
/* lost.c: the recorder thread. Takes over one dead writer's chain, if there is one. 1: there was; there may be more. */
int cs_recorder_adopt(void);
/* Closes what can be closed of the streams of an adopted chain. 1: none is left open. */
int cs_recorder_close_lost(cs_adopted_t *adopted);
/* The closing fact of a stream from its opening one; texts are borrowed from all three. `told` NULL: the slot is gone. */
#define CS_CLOSE_DETAIL 128
void cs_recorder_fill_close(cs_fact_t *fact, const cs_log_ending_t *ending, const cs_log_told_t *told,
                            char detail[CS_CLOSE_DETAIL]);

/* database.c: the store thread's connection */
typedef struct cs_database_t cs_database_t;
apr_status_t cs_database_create(cs_database_t **out, apr_pool_t *pool);
/* A store that works, opened when there is none. NULL: not now; said in the log when that is news. */
cs_store_t *cs_database_store(cs_database_t *database);
/* It failed: closes it; it is opened again after a while. */
void cs_database_lost(cs_database_t *database, const char *error);
void cs_database_close(cs_database_t *database);
/* Another thread has to give up on a store thread that hangs in its driver: is that safe with this driver? */
int cs_database_may_be_cancelled(const cs_database_t *database);
/* It has answered: says so when it was away. */
void cs_database_works(cs_database_t *database);

/* keeping.c: the store thread; its argument is the database */
void *cs_keeping_run(void *database);
/* Both threads have ended: gives up all chains. Those that are not wholly in the database are for somebody else to adopt. */
void cs_recorder_give_up(void);

#endif
