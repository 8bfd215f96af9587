/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For t/unit/6*.t: writes chains with the real journal and store, as lines on stdin say. One line is one step, answered with "ok …" or
 * "error …"; values hold no blanks.
 *
 *   record_writer STATE_DIR DRIVER PARAMS
 *
 *   chain NAME                    a new journal; answers with its chain
 *   fact NAME KIND [text=value]   open, close or incident; texts and numbers by their names (fact.h), wants defaults to 7
 *   apply NAME                    what waits goes into the database
 *   close NAME
 *   purge NAME TIME               cs_store_purge, once, and nothing of it applied
 *   now                           the clock, as purge takes it
 *   die                           without closing anything
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_dbd.h>
#include <apr_general.h>

#include "record/journal.h"
#include "record/store.h"

#define NAMES 32

static struct {
    char name[32];
    cs_journal_t *journal;
} chains[NAMES];

static cs_store_t *store;
static char error[512];

static cs_journal_t **journal_of(const char *name)
{
    int i;

    for (i = 0; i < NAMES - 1 && chains[i].name[0] != '\0' && strcmp(chains[i].name, name) != 0; i++) {}
    snprintf(chains[i].name, sizeof(chains[i].name), "%s", name);
    return &chains[i].journal;
}

static int say(int good, const char *what)
{
    printf("%s %s\n", good ? "ok" : "error", what);
    fflush(stdout);
    return 0;
}

static void set_member(cs_fact_t *fact, char *word)
{
    char *value = strchr(word, '=');
    int i;

    if (value == NULL) {
        return;
    }
    *value++ = '\0';
    for (i = 0; i < CS_TXT_COUNT; i++) {
        if (strcmp(word, cs_fact_text_name(i)) == 0) {
            cs_fact_set(fact, i, value);
            return;
        }
    }
    for (i = 0; i < CS_NUM_COUNT; i++) {
        if (strcmp(word, cs_fact_number_name(i)) == 0) {
            fact->number[i] = strtoll(value, NULL, 10);
            return;
        }
    }
    fprintf(stderr, "record_writer: no member %s\n", word);
    exit(2);
}

static int add_fact(cs_journal_t *journal, const char *kind)
{
    cs_fact_t fact;
    char *word;

    cs_fact_init(&fact, strcmp(kind, "open") == 0    ? CS_FACT_OPEN
                        : strcmp(kind, "close") == 0 ? CS_FACT_CLOSE
                                                     : CS_FACT_INCIDENT);
    fact.number[CS_NUM_WANTS] = CS_WANT_SESSIONS | CS_WANT_TRANSCRIPT | CS_WANT_AUDIT;
    fact.number[CS_NUM_AT] = apr_time_now();
    cs_fact_set(&fact, CS_TXT_NODE, "test");
    while ((word = strtok(NULL, " \n")) != NULL) {
        set_member(&fact, word);
    }
    return say(cs_journal_append(journal, &fact) == APR_SUCCESS, fact.link.hash);
}

static int apply(cs_journal_t *journal)
{
    cs_journal_place_t after;
    cs_fact_t fact;
    cs_store_e rv = cs_store_begin(store, error, sizeof(error));
    int count = 0;

    while (rv == CS_STORE_OK && cs_journal_read(journal, &fact, &after, error, sizeof(error)) == CS_JOURNAL_FACT) {
        rv = cs_store_apply(store, cs_journal_chain(journal), "test", &fact, error, sizeof(error));
        count++;
    }
    if (rv == CS_STORE_OK) {
        rv = cs_store_commit(store, error, sizeof(error));
    }
    if (rv == CS_STORE_OK && count > 0) {
        cs_journal_applied(journal, &after);
    }
    return say(rv == CS_STORE_OK, rv == CS_STORE_OK ? "" : error);
}

static int create(cs_journal_t **journal, const char *dir)
{
    cs_journal_options_t options = {.dir = dir, .node = "test", .sync = CS_SYNC_OFF};

    if (cs_journal_create(journal, &options, error, sizeof(error)) != APR_SUCCESS) {
        return say(0, error);
    }
    return say(1, cs_journal_chain(*journal));
}

static int purge(cs_journal_t *journal, const char *before)
{
    uint64_t sessions;
    uint64_t rows;
    char counts[64];

    if (cs_store_purge(store, journal, strtoll(before, NULL, 10), &sessions, &rows, error, sizeof(error))
        != CS_STORE_OK) {
        return say(0, error);
    }
    snprintf(counts, sizeof(counts), "%llu %llu", (unsigned long long)sessions, (unsigned long long)rows);
    return say(1, counts);
}

static int step(const char *dir, char *line)
{
    const char *verb = strtok(line, " \n");
    const char *name = strtok(NULL, " \n");
    cs_journal_t **journal = name != NULL ? journal_of(name) : NULL;
    const char *word;
    char now[32];

    if (verb != NULL && strcmp(verb, "now") == 0) {
        snprintf(now, sizeof(now), "%lld", (long long)apr_time_now());
        return say(1, now);
    }
    if (verb != NULL && strcmp(verb, "die") == 0) {
        _exit(0);
    }
    if (verb == NULL || journal == NULL) {
        return say(0, "what?");
    }
    if (strcmp(verb, "chain") == 0) {
        return create(journal, dir);
    }
    if (strcmp(verb, "apply") == 0) {
        return apply(*journal);
    }
    if (strcmp(verb, "close") == 0) {
        cs_journal_close(*journal);
        *journal = NULL;
        return say(1, "");
    }
    word = strtok(NULL, " \n");
    if (word != NULL && strcmp(verb, "fact") == 0) {
        return add_fact(*journal, word);
    }
    if (word != NULL && strcmp(verb, "purge") == 0) {
        return purge(*journal, word);
    }
    return say(0, "what?");
}

int main(int argc, char **argv)
{
    static char line[65536];
    apr_pool_t *pool;

    if (argc != 4) {
        fputs("usage: record_writer STATE_DIR DRIVER PARAMS\n", stderr);
        return 2;
    }
    apr_initialize();
    apr_pool_create(&pool, NULL);
    apr_dbd_init(pool);
    if (cs_store_open(&store, pool, argv[2], argv[3], error, sizeof(error)) != APR_SUCCESS) {
        fprintf(stderr, "record_writer: %s\n", error);
        return 1;
    }
    say(1, "ready");
    while (fgets(line, sizeof(line), stdin) != NULL) {
        step(argv[1], line);
    }
    return 0;
}
