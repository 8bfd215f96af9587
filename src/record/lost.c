/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chains of dead writers, and the streams those left open. What the dead one had not written is in three places: the open list says which
 * streams there were, the slot (when the arena is still ours) how far they came, the log what was said.
 */
#include <stdlib.h>
#include <string.h>

#include <apr_hash.h>
#include <apr_strings.h>
#include <httpd.h>
#include <http_log.h>

#include "chatstream/event.h"
#include "recorder.h"

APLOG_USE_MODULE(chatstream);

typedef struct {
    cs_adopted_t *adopted;
    unsigned left; /* still stand on the list */
    unsigned closed;
} closing_t;

/* What the log still has of the answer. 0: its beginning was dropped, or it cannot be had. */
static int gather_answer(uint32_t slot, cs_buf_t *answer)
{
    cs_log_ending_t ending;
    cs_cursor_t cursor;
    cs_event_t event;
    cs_uuid_t id;
    apr_time_t created_at;
    uint32_t format;
    int whole;

    cs_log_slot_info(cs_recorder.log, slot, &id, &created_at, &format);
    if (cs_format_by_index(format)->mode == CS_DECODE_RAW
        || cs_log_open_held(cs_recorder.log, cs_recorder.child, slot, &cursor)) {
        return 0;
    }
    whole = cursor.pos == 0;
    if (cs_log_read_begin(&cursor) != CS_READ_LAGGED) {
        while (cs_log_read(&cursor, &event, &ending) == CS_READ_EVENT) {
            if (event.kind == CS_EVENT_TOKEN && cs_buf_append(answer, event.data, event.len)) {
                whole = 0;
                break;
            }
        }
        cs_log_read_end(&cursor);
    }
    cs_log_cursor_close(&cursor);
    return whole;
}

static void lost_without_trace(cs_log_ending_t *ending)
{
    memset(ending, 0, sizeof(*ending));
    ending->state = CS_STATE_ERROR;
    ending->prompt_tokens = ending->completion_tokens = ending->first_token_ms = ending->duration_ms = -1;
    memcpy(ending->code, "worker_lost", sizeof("worker_lost"));
}

static int is_our_arena(const cs_journal_t *journal)
{
    cs_uuid_t ours;

    cs_log_arena_id(cs_recorder.log, &ours);
    return !memcmp(ours.bytes, cs_journal_arena(journal)->bytes, sizeof(ours.bytes));
}

static void close_one(void *baton, uint32_t place, const cs_fact_t *opened)
{
    closing_t *closing = baton;
    cs_adopted_t *adopted = closing->adopted;
    uint32_t slot = CS_LOG_NONE;
    cs_fact_t fact = *opened;
    char detail[CS_CLOSE_DETAIL];
    cs_log_told_t told;
    cs_log_ending_t ending;
    cs_buf_t answer;
    cs_uuid_t id;
    int whole;

    if (is_our_arena(adopted->journal)
        && !cs_uuid_parse(&id, fact.text[CS_TXT_STREAM_ID].data, fact.text[CS_TXT_STREAM_ID].len)) {
        slot = cs_log_find_held(cs_recorder.log, &id);
    }
    lost_without_trace(&ending);
    cs_buf_init(&answer, CS_FACT_MAX / 2);
    if (slot != CS_LOG_NONE) {
        cs_log_told(cs_recorder.log, slot, &told);
        if (!told.has_ended) { /* not reaped yet */
            closing->left++;
            return;
        }
        ending = told.ending;
        if (fact.number[CS_NUM_WANTS] & CS_WANT_TRANSCRIPT) {
            whole = gather_answer(slot, &answer);
            if (answer.len) {
                fact.text[CS_TXT_ANSWER] = (cs_text_t){answer.data, answer.len};
                fact.number[CS_NUM_PARTIAL] = !whole || ending.state != CS_STATE_COMPLETED;
            }
        }
    }
    cs_recorder_fill_close(&fact, &ending, slot != CS_LOG_NONE ? &told : NULL, detail);
    if (slot == CS_LOG_NONE) {
        fact.number[CS_NUM_CHUNK_COUNT] = CS_NUM_NONE;
    }
    if (!strcmp(ending.code, "worker_lost")) {
        fact.number[CS_NUM_BYTES_SENT] = CS_NUM_NONE; /* readers count when they go, and these were cut off */
    }
    fact.number[CS_NUM_AT] = apr_time_now();
    cs_journal_unsettled(adopted->journal);
    if (cs_journal_append(adopted->journal, &fact)) {
        closing->left++; /* the next round tries again */
    }
    else {
        closing->closed++;
        if (slot != CS_LOG_NONE) {
            cs_log_release(cs_recorder.log, slot);
        }
        cs_open_list_remove(adopted->open, place); /* last, as in closing.c */
    }
    cs_journal_settled(adopted->journal);
    cs_buf_free(&answer);
}

/* ---- closed already ----------------------------------------------------------------------------------------------- */

typedef struct {
    const cs_adopted_t *adopted;
    apr_pool_t *pool;
    apr_hash_t *places; /* stream id -> place */
} settling_t;

static void note_place(void *baton, uint32_t place, const cs_fact_t *opened)
{
    settling_t *settling = baton;
    const cs_text_t *id = &opened->text[CS_TXT_STREAM_ID];

    apr_hash_set(settling->places, apr_pstrmemdup(settling->pool, id->data, id->len), (apr_ssize_t)id->len,
                 apr_pmemdup(settling->pool, &place, sizeof(place)));
}

static int wipe_closed(void *baton, const char *chain, const cs_journal_place_t *at, const cs_fact_t *fact, int applied,
                       const char *note)
{
    settling_t *settling = baton;
    const uint32_t *place;
    uint32_t slot;
    cs_uuid_t id;

    (void)chain;
    (void)at;
    (void)applied;
    (void)note;
    if (!fact || fact->kind != CS_FACT_CLOSE) {
        return 0;
    }
    place = apr_hash_get(settling->places, fact->text[CS_TXT_STREAM_ID].data,
                         (apr_ssize_t)fact->text[CS_TXT_STREAM_ID].len);
    if (place) {
        if (is_our_arena(settling->adopted->journal)
            && !cs_uuid_parse(&id, fact->text[CS_TXT_STREAM_ID].data, fact->text[CS_TXT_STREAM_ID].len)
            && (slot = cs_log_find_held(cs_recorder.log, &id)) != CS_LOG_NONE) {
            cs_log_release(cs_recorder.log, slot);
        }
        cs_open_list_remove(settling->adopted->open, *place);
    }
    return 0;
}

/*
 * Killed between the closing fact and the list: such a stream stands on both, and must not be closed twice. The journal keeps the fact
 * until the list is wiped (cs_journal_unsettled), so looking into what is left of it is enough.
 */
static apr_status_t settle_closed(const cs_adopted_t *adopted, char *error, size_t size)
{
    settling_t settling = {adopted, NULL, NULL};
    apr_status_t rv = apr_pool_create(&settling.pool, NULL);

    if (rv) {
        apr_snprintf(error, size, "no memory");
        return rv;
    }
    settling.places = apr_hash_make(settling.pool);
    if (cs_open_list_each(adopted->open, note_place, &settling)) {
        rv = cs_journal_each(adopted->journal, wipe_closed, &settling, error, size);
    }
    apr_pool_destroy(settling.pool);
    return rv;
}

/* ---- taking over --------------------------------------------------------------------------------------------------- */

static apr_status_t adopt(cs_adopted_t *adopted, char *error, size_t size)
{
    cs_journal_options_t options = {
        cs_recorder.conf.state_dir, cs_recorder.node, {{0}}, (cs_sync_e)cs_recorder.conf.journal_sync};
    apr_status_t rv = cs_journal_adopt(&adopted->journal, &options, error, size);

    if (rv) {
        return rv;
    }
    cs_journal_unsettled(adopted->journal);
    rv = cs_open_list_open(&adopted->open, options.dir, cs_journal_chain(adopted->journal));
    if (rv) {
        apr_snprintf(error, size, "its list of open streams cannot be read");
    }
    else {
        rv = settle_closed(adopted, error, size);
    }
    cs_journal_settled(adopted->journal);
    return rv;
}

/* What stays wrong is said once in a while, not in each round. */
static void say_not_adopted(apr_status_t rv, const char *error)
{
    static char last[256];
    static apr_time_t said;
    apr_time_t now = cs_clock_mono();

    if (rv == APR_EGENERAL || strcmp(last, error) != 0 || now - said > apr_time_from_sec(600)) {
        said = now;
        apr_cpystrn(last, error, sizeof(last));
        ap_log_error(APLOG_MARK, APLOG_ERR, rv == APR_EGENERAL ? 0 : rv, cs_recorder.server,
                     "chatstream: a journal in '%s' cannot be taken over: %s", cs_recorder.conf.state_dir, error);
    }
}

int cs_recorder_adopt(void)
{
    cs_adopted_t *adopted = calloc(1, sizeof(*adopted));
    char error[256] = "no memory";
    apr_status_t rv = adopted ? adopt(adopted, error, sizeof(error)) : APR_ENOMEM;

    if (rv) {
        if (rv != APR_NOTFOUND) {
            say_not_adopted(rv, error);
        }
        if (adopted) {
            cs_open_list_close(adopted->open, 0);
            cs_journal_close(adopted->journal);
        }
        free(adopted);
        return rv == APR_EGENERAL; /* was set aside */
    }
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, cs_recorder.server,
                 "chatstream: takes over the journal %s of a writer that is gone", cs_journal_chain(adopted->journal));
    pthread_mutex_lock(&cs_recorder.lock);
    adopted->next = cs_recorder.adopted;
    cs_recorder.adopted = adopted;
    pthread_mutex_unlock(&cs_recorder.lock);
    return 1;
}

int cs_recorder_close_lost(cs_adopted_t *adopted)
{
    closing_t closing = {adopted, 0, 0};

    cs_open_list_each(adopted->open, close_one, &closing);
    if (closing.closed) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, cs_recorder.server,
                     "chatstream: %u streams of a writer that is gone were closed in the records", closing.closed);
    }
    return !closing.left;
}
