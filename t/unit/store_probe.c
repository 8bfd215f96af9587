/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_probe: the store, driven by 09-store.t.
 *
 *     store_probe schema DIALECT                  the statements that migrate runs
 *     store_probe DRIVER PARAMS streams N BATCH [PREFIX]   N made-up streams; prints microseconds per stream
 *     store_probe DRIVER PARAMS                   commands from standard input, one line each; answers one line each
 *
 * Commands: migrate, version, open (the connection again), begin, commit, rollback,
 *           pool (opens a connection as mod_dbd does), check (it, as mod_dbd does), wrap (a new store on it),
 *           OPEN|CLOSE|INCIDENT ID SEQ [member=text ...]   (tab between, "member=@N": N times x; SEQ 0: no audit row)
 * Answers:  ok, lost, refused or a number, a tab, and the error line.
 */
#include <stdlib.h>

#include <apr_general.h>
#include <apr_strings.h>

#include "record/schema.h"
#include "record/store_inner.h"
#include "store_fixture.h"

typedef struct {
    apr_pool_t *global, *pool;
    const char *driver, *params;
    cs_store_t *store;
    const apr_dbd_driver_t *dbd; /* of a connection that stays while stores come and go */
    apr_dbd_t *handle;
    apr_hash_t *prepared;
    char error[1024];
} probe_t;

static const char *name_of(int got)
{
    static const char *const names[] = {"ok", "lost", "refused"};

    return names[got];
}

static apr_status_t open_store(probe_t *probe)
{
    if (probe->pool != NULL) {
        apr_pool_destroy(probe->pool);
    }
    apr_pool_create(&probe->pool, probe->global);
    return cs_store_open(&probe->store, probe->pool, probe->driver, probe->params, probe->error, sizeof(probe->error));
}

static apr_status_t pool_connection(probe_t *probe)
{
    apr_status_t rv = apr_dbd_get_driver(probe->global, probe->driver, &probe->dbd);

    if (rv == APR_SUCCESS) {
        rv = apr_dbd_open(probe->dbd, probe->global, probe->params, &probe->handle);
    }
    probe->prepared = apr_hash_make(probe->global);
    return rv;
}

static apr_status_t wrap_store(probe_t *probe)
{
    apr_pool_destroy(probe->pool);
    apr_pool_create(&probe->pool, probe->global);
    return cs_store_wrap(&probe->store, probe->pool, probe->dbd, probe->handle, probe->prepared, probe->error,
                         sizeof(probe->error));
}

/* ---- facts from a line -------------------------------------------------------------------------------------------- */

static char *member_text(char *value)
{
    size_t len;
    char *text;

    if (*value != '@') {
        return value;
    }
    len = (size_t)strtoul(value + 1, NULL, 10);
    text = malloc(len + 1); /* the program is short */
    memset(text, 'x', len);
    text[len] = '\0';
    return text;
}

static void set_member(cs_fact_t *fact, const char *name, char *value)
{
    int i;

    for (i = 0; i < CS_TXT_COUNT; i++) {
        if (strcmp(cs_fact_text_name(i), name) == 0) {
            cs_fact_set(fact, i, *value ? member_text(value) : NULL);
        }
    }
    for (i = 0; i < CS_NUM_COUNT; i++) {
        if (strcmp(cs_fact_number_name(i), name) == 0) {
            fact->number[i] = *value ? strtoll(value, NULL, 10) : CS_NUM_NONE;
        }
    }
}

static int apply_line(probe_t *probe, char *line)
{
    char *state, *kind = strtok_r(line, "\t", &state), *id = strtok_r(NULL, "\t", &state);
    char *seq = strtok_r(NULL, "\t", &state), *member, *value;
    cs_fact_t fact;

    if (id == NULL || seq == NULL) {
        return CS_STORE_LOST;
    }
    fact = strcmp(kind, "OPEN") == 0 ? store_opening(id, 0) : store_ending(id, 0, "completed");
    if (strcmp(kind, "INCIDENT") == 0) {
        fact = store_fact(CS_FACT_INCIDENT, id);
        cs_fact_set(&fact, CS_TXT_EVENT, "cancel");
    }
    while ((member = strtok_r(NULL, "\t", &state)) != NULL) {
        value = strchr(member, '=');
        if (value != NULL) {
            *value = '\0';
            set_member(&fact, member, value + 1);
        }
    }
    if (atoi(seq) > 0) {
        store_link(&fact, (uint64_t)atoi(seq));
    }
    return cs_store_apply(probe->store, "chain-1", "node-1", &fact, probe->error, sizeof(probe->error));
}

static int command(probe_t *probe, char *line, int *number)
{
    size_t size = sizeof(probe->error);

    *probe->error = '\0';
    *number = -1;
    if (strcmp(line, "open") == 0) {
        return open_store(probe) == APR_SUCCESS ? CS_STORE_OK : CS_STORE_LOST;
    }
    if (probe->store == NULL) {
        return CS_STORE_LOST;
    }
    if (strcmp(line, "pool") == 0) {
        return pool_connection(probe) == APR_SUCCESS ? CS_STORE_OK : CS_STORE_LOST;
    }
    if (strcmp(line, "check") == 0) {
        return apr_dbd_check_conn(probe->dbd, probe->pool, probe->handle) == APR_SUCCESS ? CS_STORE_OK : CS_STORE_LOST;
    }
    if (strcmp(line, "wrap") == 0) {
        return wrap_store(probe) == APR_SUCCESS ? CS_STORE_OK : CS_STORE_LOST;
    }
    if (strcmp(line, "migrate") == 0) {
        return cs_store_migrate(probe->store, probe->error, size) == APR_SUCCESS ? CS_STORE_OK : CS_STORE_LOST;
    }
    if (strcmp(line, "version") == 0) {
        return cs_store_version(probe->store, number, probe->error, size) == APR_SUCCESS ? CS_STORE_OK : CS_STORE_LOST;
    }
    if (strcmp(line, "begin") == 0) {
        return cs_store_begin(probe->store, probe->error, size);
    }
    if (strcmp(line, "commit") == 0) {
        return cs_store_commit(probe->store, probe->error, size);
    }
    if (strcmp(line, "rollback") == 0) {
        cs_store_rollback(probe->store);
        return CS_STORE_OK;
    }
    return apply_line(probe, line);
}

static int converse(probe_t *probe)
{
    static char line[65536];
    int got, number;

    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        got = command(probe, line, &number);
        if (got == CS_STORE_OK && number >= 0) {
            printf("%d\t\n", number);
        }
        else {
            printf("%s\t%s\n", name_of(got), probe->error);
        }
    }
    return 0;
}

/* ---- many ---------------------------------------------------------------------------------------------------------- */

static int streams(probe_t *probe, int count, int batch, const char *prefix)
{
    static const char *const endings[] = {"completed", "completed", "completed", "completed", "completed",
                                          "completed", "error",     "timeout",   "cancelled", "disconnected"};
    char id[64];
    apr_time_t start = apr_time_now();
    cs_store_e got = CS_STORE_OK;
    int i;

    for (i = 0; got == CS_STORE_OK && i < count; i++) {
        cs_fact_t opening, ending;

        snprintf(id, sizeof(id), "%s-%d", prefix, i);
        opening = store_opening(id, (uint64_t)(2 * i + 1));
        ending = store_ending(id, (uint64_t)(2 * i + 2), endings[i % 10]);
        opening.number[CS_NUM_AT] = start;
        ending.number[CS_NUM_AT] = start + 1500000;
        ending.number[CS_NUM_FIRST_CHUNK_MS] = i + 1;
        ending.number[CS_NUM_DURATION_MS] = 10 * (i + 1);
        if (i % batch == 0) {
            got = cs_store_begin(probe->store, probe->error, sizeof(probe->error));
        }
        if (got == CS_STORE_OK) {
            got = cs_store_apply(probe->store, prefix, "node-1", &opening, probe->error, sizeof(probe->error));
        }
        if (got == CS_STORE_OK) {
            got = cs_store_apply(probe->store, prefix, "node-1", &ending, probe->error, sizeof(probe->error));
        }
        if (got == CS_STORE_OK && (i % batch == batch - 1 || i == count - 1)) {
            got = cs_store_commit(probe->store, probe->error, sizeof(probe->error));
        }
    }
    printf("%s\t%s\t%.1f\n", name_of(got), got == CS_STORE_OK ? "" : probe->error,
           (double)(apr_time_now() - start) / count);
    return got != CS_STORE_OK;
}

static int schema(const char *dialect)
{
    cs_sql_e sql;
    const char *const *text;

    if (cs_sql_of_driver(&sql, dialect) != APR_SUCCESS) {
        return 2;
    }
    for (text = cs_schema[sql]; *text != NULL; text++) {
        printf("%s;\n", *text);
    }
    return 0;
}

int main(int argc, char **argv)
{
    probe_t probe = {0};

    if (argc == 3 && strcmp(argv[1], "schema") == 0) {
        return schema(argv[2]);
    }
    if (argc < 3) {
        fprintf(stderr, "usage: store_probe schema DIALECT | DRIVER PARAMS [streams N BATCH [PREFIX]]\n");
        return 2;
    }
    apr_initialize();
    apr_pool_create(&probe.global, NULL);
    apr_dbd_init(probe.global);
    probe.driver = argv[1];
    probe.params = argv[2];
    if (open_store(&probe) != APR_SUCCESS) {
        printf("lost\t%s\n", probe.error);
        return 1;
    }
    if (argc >= 6 && strcmp(argv[3], "streams") == 0) {
        return streams(&probe, atoi(argv[4]), atoi(argv[5]), argc > 6 ? argv[6] : "stream");
    }
    return converse(&probe);
}
