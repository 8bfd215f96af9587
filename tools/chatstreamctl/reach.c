/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl.h"

#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>

#include "record/admin_fact.h"

#define FACTS_AT_ONCE 200

/* ---- rights --------------------------------------------------------------------------------------------------------- */

/* SQLite's and the journal's files are made with the rights of who makes them, and the server's children must go on with them. */
int ctl_as_owner(const char *path)
{
    struct stat info;

    if (geteuid() != 0) {
        return CTL_OK;
    }
    if (stat(path, &info) != 0) {
        return ctl_complain("%s: %s", path, strerror(errno));
    }
    if (info.st_uid == 0) {
        return CTL_OK;
    }
    if (setgroups(1, &info.st_gid) != 0 || setegid(info.st_gid) != 0 || seteuid(info.st_uid) != 0) {
        return ctl_complain("cannot become the owner of %s: %s", path, strerror(errno));
    }
    return CTL_OK;
}

void ctl_as_self(void)
{
    if (getuid() == 0 && geteuid() != 0 && seteuid(0) == 0 && setegid(getgid()) == 0) {
        gid_t group = getgid();

        setgroups(1, &group);
    }
}

/* ---- database ------------------------------------------------------------------------------------------------------- */

/* Looking at a database must not make one, as SQLite would; and who makes one makes it for the server. */
static int prepare_file(const ctl_t *ctl, const char *path, ctl_schema_e schema)
{
    struct stat info;
    int is_there = stat(path, &info) == 0;

    if (!is_there && schema == CTL_WITH_SCHEMA) {
        return ctl_complain("%s: %s", path, strerror(errno));
    }
    if (ctl->state != NULL) {
        return CTL_OK;
    }
    return ctl_as_owner(is_there ? path : dirname(apr_pstrdup(ctl->pool, path)));
}

int ctl_store(const ctl_t *ctl, cs_store_t **store, ctl_schema_e schema)
{
    const char *params = strchr(ctl->db, ':');
    const char *driver;
    char error[CTL_ERROR] = "";
    cs_sql_e sql;
    int version = 0;
    int rc = CTL_OK;

    if (params == NULL) {
        return ctl_misused("--db takes DRIVER:PARAMS");
    }
    driver = apr_pstrmemdup(ctl->pool, ctl->db, (apr_size_t)(params++ - ctl->db));
    if (cs_sql_of_driver(&sql, driver) != APR_SUCCESS) {
        return ctl_misused("--db %s: the driver is one of sqlite3, pgsql, mysql", driver);
    }
    if (ctl->state != NULL) {
        rc = ctl_as_owner(ctl->state);
    }
    if (rc == CTL_OK && sql == CS_SQL_SQLITE3) {
        rc = prepare_file(ctl, params, schema);
    }
    if (rc != CTL_OK) {
        return rc;
    }
    if (cs_store_open(store, ctl->pool, driver, params, error, sizeof(error)) != APR_SUCCESS) {
        return ctl_complain("cannot open the database: %s", error);
    }
    if (schema == CTL_WITH_SCHEMA) {
        if (cs_store_version(*store, &version, error, sizeof(error)) != APR_SUCCESS) {
            return ctl_complain("cannot read the database: %s", error);
        }
        if (version == 0) {
            return ctl_complain("the database has no schema yet: chatstreamctl migrate makes it");
        }
    }
    return CTL_OK;
}

/* ---- journal -------------------------------------------------------------------------------------------------------- */

int ctl_journal(const ctl_t *ctl, cs_journal_t **journal)
{
    char node[CS_NODE_SIZE];
    char error[CTL_ERROR] = "";
    cs_journal_options_t options;
    int rc = ctl_as_owner(ctl->state);

    if (rc != CTL_OK) {
        return rc;
    }
    cs_admin_node(node);
    memset(&options, 0, sizeof(options));
    options.dir = ctl->state;
    options.node = node;
    options.sync = CS_SYNC_ALWAYS;
    if (cs_journal_create(journal, &options, error, sizeof(error)) != APR_SUCCESS) {
        return ctl_complain("%s", error);
    }
    return CTL_OK;
}

/* One transaction. `count`: facts in it, 0 at the end of the journal. */
static int apply_some(cs_store_t *store, cs_journal_t *journal, const char *node, int *count)
{
    cs_journal_place_t after;
    char error[CTL_ERROR] = "";
    cs_fact_t fact;
    cs_journal_read_e what = CS_JOURNAL_END;
    cs_store_e rv = cs_store_begin(store, error, sizeof(error));

    *count = 0;
    if (rv != CS_STORE_OK) {
        return ctl_complain("the journal cannot be applied: %s", error);
    }
    while (rv == CS_STORE_OK && *count < FACTS_AT_ONCE) {
        what = cs_journal_read(journal, &fact, &after, error, sizeof(error));
        if (what == CS_JOURNAL_END) {
            break;
        }
        if (what == CS_JOURNAL_CORRUPT) {
            /* Set aside for somebody to look at, and told; what follows is not its fault. */
            ctl_complain("%s", error);
            continue;
        }
        rv = cs_store_apply(store, cs_journal_chain(journal), node, &fact, error, sizeof(error));
        ++*count;
    }
    if (rv == CS_STORE_OK && *count > 0) {
        rv = cs_store_commit(store, error, sizeof(error));
    }
    else {
        cs_store_rollback(store);
    }
    if (rv != CS_STORE_OK) {
        cs_journal_rewind(journal);
        return ctl_complain("the journal cannot be applied and stays as it is: %s", error);
    }
    if (*count > 0) {
        cs_journal_applied(journal, &after);
    }
    return CTL_OK;
}

int ctl_apply(cs_store_t *store, cs_journal_t *journal, uint64_t *facts)
{
    char node[CS_NODE_SIZE];
    uint64_t all = 0;
    int count;
    int rc;

    cs_admin_node(node);
    do {
        rc = apply_some(store, journal, node, &count);
        all += rc == CTL_OK ? (uint64_t)count : 0;
    } while (rc == CTL_OK && count > 0);
    if (facts != NULL) {
        *facts = all;
    }
    return rc;
}
