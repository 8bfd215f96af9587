/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands of chatstreamctl share: the options as they were given, and the ways to the database and to the state directory.
 * One thread; everything lives until the process ends.
 *
 * A command returns the exit code. What it has to say goes to stdout, what went wrong to stderr as one line (ctl_complain).
 */
#ifndef CTL_H
#define CTL_H

#include <apr_pools.h>
#include <apr_time.h>

#include "record/store.h"

enum { CTL_OK = 0, CTL_WRONG = 1, CTL_USAGE = 2 };

typedef struct {
    apr_pool_t *pool;
    int json;
    int with_text;
    const char *db;    /* DRIVER:PARAMS; NULL: not given */
    const char *state; /* directory */
    const char *file;
    const char *event;
    const char *user;
    const char *stream;
    apr_time_t from; /* 0: open */
    apr_time_t until;
    apr_time_t before;        /* --before, or --days ago; -1: not given */
    const char *const *words; /* what follows the command */
    int words_count;
} ctl_t;

#define CTL_ERROR 512

/* "chatstreamctl: …" on stderr. Returns CTL_WRONG. */
int ctl_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same with a hint to --help. Returns CTL_USAGE. */
int ctl_misused(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Writes to stdout. Returns CTL_OK, or CTL_WRONG when that does not work. */
int ctl_put(const cs_buf_t *out);
/* "2026-02-17", "2026-02-17T10:00:00Z", with or without fractions; UTC. 0: none of these. */
int ctl_time_parse(apr_time_t *when, const char *text);

/* ---- reach.c -------------------------------------------------------------------------------------------------------- */

typedef enum { CTL_ANY_SCHEMA, CTL_WITH_SCHEMA } ctl_schema_e;

/*
 * Opens --db. Returns CTL_OK or complains. As root it first takes the rights of the state directory's owner, or of the SQLite file's:
 * whatever is made on the way must be the server's.
 */
int ctl_store(const ctl_t *ctl, cs_store_t **store, ctl_schema_e schema);
/* A chain of its own in --state, which has to be given: an audit row needs one. */
int ctl_journal(const ctl_t *ctl, cs_journal_t **journal);
/* Applies what is in the journal and not yet in the database. `facts`, may be NULL, is what that was. */
int ctl_apply(cs_store_t *store, cs_journal_t *journal, uint64_t *facts);

/* From here to ctl_as_self the process has the rights of the owner of `path`, when it is root's and he is not. */
int ctl_as_owner(const char *path);
void ctl_as_self(void);

/* ---- commands ------------------------------------------------------------------------------------------------------- */

int ctl_migrate(const ctl_t *ctl);
int ctl_status(const ctl_t *ctl);
int ctl_flags_get(const ctl_t *ctl);
int ctl_flags_set(const ctl_t *ctl);
int ctl_journal_show(const ctl_t *ctl);
int ctl_journal_replay(const ctl_t *ctl);
int ctl_audit_verify(const ctl_t *ctl);
int ctl_audit_export(const ctl_t *ctl);
int ctl_gdpr_export(const ctl_t *ctl);
int ctl_gdpr_erase(const ctl_t *ctl);
int ctl_purge(const ctl_t *ctl);

#endif
