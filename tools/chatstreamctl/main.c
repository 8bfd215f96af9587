/* SPDX-License-Identifier: Apache-2.0 */
/* chatstreamctl: what the records of mod_chatstream are asked and told from a shell. See chatstreamctl.8. */
#include "ctl.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_dbd.h>
#include <apr_general.h>
#include <apr_strings.h>

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "unknown"
#endif

/* ---- options -------------------------------------------------------------------------------------------------------- */

enum {
    OPT_JSON = 1 << 0,
    OPT_DB = 1 << 1,
    OPT_STATE = 1 << 2,
    OPT_FILE = 1 << 3,
    OPT_FROM = 1 << 4,
    OPT_UNTIL = 1 << 5,
    OPT_EVENT = 1 << 6,
    OPT_USER = 1 << 7,
    OPT_STREAM = 1 << 8,
    OPT_DAYS = 1 << 9,
    OPT_BEFORE = 1 << 10,
    OPT_WITH_TEXT = 1 << 11,
    OPT_HELP = 1 << 12,
    OPT_VERSION = 1 << 13,
    OPT_ANYWHERE = OPT_JSON | OPT_DB | OPT_STATE | OPT_HELP | OPT_VERSION
};

static const struct option long_options[] = {
    {"json", no_argument, NULL, OPT_JSON},
    {"db", required_argument, NULL, OPT_DB},
    {"state", required_argument, NULL, OPT_STATE},
    {"file", required_argument, NULL, OPT_FILE},
    {"from", required_argument, NULL, OPT_FROM},
    {"until", required_argument, NULL, OPT_UNTIL},
    {"event", required_argument, NULL, OPT_EVENT},
    {"user", required_argument, NULL, OPT_USER},
    {"stream", required_argument, NULL, OPT_STREAM},
    {"days", required_argument, NULL, OPT_DAYS},
    {"before", required_argument, NULL, OPT_BEFORE},
    {"with-text", no_argument, NULL, OPT_WITH_TEXT},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

/* ---- commands ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    const char *sub; /* NULL: the name is all of it */
    int (*run)(const ctl_t *ctl);
    int needs;
    int takes; /* besides what it needs and what stands anywhere */
    int takes_words;
    const char *usage;
    const char *help;
} command_t;

static const command_t commands[] = {
    {"migrate", NULL, ctl_migrate, OPT_DB, 0, 0, "migrate --db DRIVER:PARAMS",
     "Creates what is missing of the schema. Harmless when all is there.\n"},
    {"status", NULL, ctl_status, OPT_DB, 0, 0, "status --db DRIVER:PARAMS [--state DIR] [--json]",
     "Schema version, sessions by status, audit rows and chains; with --state what waits in journals.\n"},
    {"flags", "get", ctl_flags_get, OPT_FILE, 0, 0, "flags get [--file PATH] [--json]",
     "What the flag file overrides. Without --file it is the one that CHATSTREAM_FLAG_FILE names.\n"},
    {"flags", "set", ctl_flags_set, OPT_FILE, 0, 1,
     "flags set [--file PATH] [--state DIR] [profile=NAME ...] [enabled=on|off] [rollout=PCT]",
     "Changes the flag file in one step; the server follows within 2 s. A value that is empty removes the member.\n"
     "With profile= the values are those profiles', else everybody's. With --state an audit row tells of it.\n"
     "Without --file it is the one that CHATSTREAM_FLAG_FILE names.\n"},
    {"journal", "show", ctl_journal_show, OPT_STATE, OPT_WITH_TEXT, 0,
     "journal show --state DIR [--with-text] [--json]",
     "One line for each fact in the journals. Messages and answers only with --with-text.\n"},
    {"journal", "replay", ctl_journal_replay, OPT_STATE | OPT_DB, 0, 0, "journal replay --state DIR --db DRIVER:PARAMS",
     "Takes over the journals of writers that are dead and applies them to the database.\n"},
    {"audit", "verify", ctl_audit_verify, OPT_DB, 0, 0, "audit verify --db DRIVER:PARAMS [--state DIR] [--json]",
     "Is the audit trail what was written? Names each row after, or at, which it is not. With --state the heads that the\n"
     "state directory remembers count too, and rows that still wait in journals are not missing.\n"},
    {"audit", "export", ctl_audit_export, OPT_DB, OPT_FROM | OPT_UNTIL | OPT_EVENT | OPT_USER | OPT_STREAM, 0,
     "audit export --db DRIVER:PARAMS [--from TIME] [--until TIME] [--event NAME] [--user KEY] [--stream ID]",
     "The audit rows as JSON, one line each. From and until are ISO 8601 in UTC; until is not included.\n"},
    {"gdpr", "export", ctl_gdpr_export, OPT_DB | OPT_USER, 0, 0, "gdpr export --db DRIVER:PARAMS --user KEY",
     "Everything that is kept about a user, as one JSON document.\n"},
    {"gdpr", "erase", ctl_gdpr_erase, OPT_DB | OPT_STATE | OPT_USER, 0, 0,
     "gdpr erase --db DRIVER:PARAMS --state DIR --user KEY [--json]",
     "Deletes a user's messages and takes away what identifies in sessions and audit rows. The trail still verifies.\n"},
    {"purge", NULL, ctl_purge, OPT_DB | OPT_STATE, OPT_DAYS | OPT_BEFORE, 0,
     "purge --db DRIVER:PARAMS --state DIR --days N | --before TIME [--json]",
     "Removes finished sessions with their messages and audit rows that are older. The trail still verifies.\n"},
};

#define COMMANDS ((int)(sizeof(commands) / sizeof(*commands)))

/* ---- saying --------------------------------------------------------------------------------------------------------- */

int ctl_complain(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("chatstreamctl: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return CTL_WRONG;
}

int ctl_misused(const char *format, ...)
{
    va_list args;

    fputs("chatstreamctl: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs(" (see chatstreamctl --help)\n", stderr);
    return CTL_USAGE;
}

int ctl_put(const cs_buf_t *out)
{
    if (out->len > 0 && fwrite(out->data, 1, out->len, stdout) != out->len) {
        return ctl_complain("cannot write to standard output");
    }
    return CTL_OK;
}

static int help_all(void)
{
    int i;

    puts("usage: chatstreamctl [--json] [--db DRIVER:PARAMS] [--state DIR] COMMAND [OPTION ...]\n");
    for (i = 0; i < COMMANDS; i++) {
        printf("  %s\n", commands[i].usage);
    }
    puts(
        "\n  --db DRIVER:PARAMS  sqlite3:/path/cs.db, 'pgsql:host=… dbname=…', 'mysql:host=…,dbname=…': apr_dbd's own\n"
        "                      names and parameters; from CHATSTREAM_DB when it is not given\n"
        "  --state DIR         ChatStreamStateDir\n"
        "  --file PATH         ChatStreamFlagFile; from CHATSTREAM_FLAG_FILE when it is not given\n"
        "  --json              JSON instead of text\n"
        "  --help              this, or behind a command what that one does\n"
        "  --version\n\n"
        "Exit status: 0 all is well, 1 what was asked for is not, or could not be done, 2 wrong use.");
    return CTL_OK;
}

static int help_one(const command_t *command)
{
    printf("usage: chatstreamctl %s\n\n%s", command->usage, command->help);
    return CTL_OK;
}

/* ---- reading the command line --------------------------------------------------------------------------------------- */

static const char *option_name(int bit)
{
    const struct option *option;

    for (option = long_options; option->name != NULL && option->val != bit; option++) {}
    return option->name;
}

static int take_days(ctl_t *ctl, const char *text)
{
    char *end;
    long days = strtol(text, &end, 10);

    if (*text < '0' || *text > '9' || *end != '\0' || days > 36500) {
        return ctl_misused("--days %s: not a number of days", text);
    }
    ctl->before = apr_time_now() - apr_time_from_sec((apr_time_t)days * 86400);
    return CTL_OK;
}

static int take_time(apr_time_t *when, int bit, const char *text)
{
    return ctl_time_parse(when, text)
               ? CTL_OK
               : ctl_misused("--%s %s: not a time like 2026-02-17T10:00:00Z", option_name(bit), text);
}

static int take_option(ctl_t *ctl, int bit, const char *value)
{
    switch (bit) {
    case OPT_JSON:
        ctl->json = 1;
        break;
    case OPT_WITH_TEXT:
        ctl->with_text = 1;
        break;
    case OPT_DB:
        ctl->db = value;
        break;
    case OPT_STATE:
        ctl->state = value;
        break;
    case OPT_FILE:
        ctl->file = value;
        break;
    case OPT_EVENT:
        ctl->event = value;
        break;
    case OPT_USER:
        ctl->user = value;
        break;
    case OPT_STREAM:
        ctl->stream = value;
        break;
    case OPT_FROM:
        return take_time(&ctl->from, bit, value);
    case OPT_UNTIL:
        return take_time(&ctl->until, bit, value);
    case OPT_BEFORE:
        return take_time(&ctl->before, bit, value);
    case OPT_DAYS:
        return take_days(ctl, value);
    default:
        break;
    }
    return value != NULL && *value == '\0' ? ctl_misused("--%s needs a value", option_name(bit)) : CTL_OK;
}

/* Options may stand anywhere; what is left are words. */
static int read_options(ctl_t *ctl, int argc, char **argv, int *given)
{
    int bit;
    int rc;

    opterr = 0;
    *given = 0;
    while ((bit = getopt_long(argc, argv, ":", long_options, NULL)) != -1) {
        if (bit == '?' || bit == ':') {
            return ctl_misused(bit == ':' ? "%s needs a value" : "unknown option %s", argv[optind - 1]);
        }
        *given |= bit;
        rc = take_option(ctl, bit, optarg);
        if (rc != CTL_OK) {
            return rc;
        }
    }
    ctl->words = (const char *const *)(argv + optind);
    ctl->words_count = argc - optind;
    return CTL_OK;
}

/* The command that the words begin with, which it takes away; NULL after a complaint. */
static const command_t *find_command(ctl_t *ctl)
{
    const char *name = ctl->words_count > 0 ? ctl->words[0] : "";
    const char *sub = ctl->words_count > 1 ? ctl->words[1] : "";
    int is_half = 0;
    int i;

    for (i = 0; i < COMMANDS; i++) {
        const command_t *command = &commands[i];

        if (strcmp(command->name, name) == 0) {
            is_half = 1;
            if (command->sub == NULL || strcmp(command->sub, sub) == 0) {
                int words = command->sub == NULL ? 1 : 2;

                ctl->words += words;
                ctl->words_count -= words;
                return command;
            }
        }
    }
    if (ctl->words_count == 0) {
        ctl_misused("no command");
    }
    else if (is_half && *sub != '\0') {
        ctl_misused("%s %s: no such command", name, sub);
    }
    else if (is_half) {
        ctl_misused("%s: get or set, show or replay, verify or export or erase what?", name);
    }
    else {
        ctl_misused("%s: no such command", name);
    }
    return NULL;
}

static int check_use(const ctl_t *ctl, const command_t *command, int given)
{
    int allowed = command->needs | command->takes | OPT_ANYWHERE;
    int has = given | (ctl->db != NULL ? OPT_DB : 0) | (ctl->file != NULL ? OPT_FILE : 0);
    int bit;

    if (!command->takes_words && ctl->words_count > 0) {
        return ctl_misused("%s: one word too many: %s", command->name, ctl->words[0]);
    }
    for (bit = 1; bit <= OPT_VERSION; bit <<= 1) {
        if ((given & bit) && !(allowed & bit)) {
            return ctl_misused("%s%s%s takes no --%s", command->name, command->sub != NULL ? " " : "",
                               command->sub != NULL ? command->sub : "", option_name(bit));
        }
        if ((command->needs & bit) && !(has & bit)) {
            return ctl_misused(bit == OPT_STATE  ? "%s%s%s needs --%s: an audit row needs a chain, and chains are there"
                               : bit == OPT_FILE ? "%s%s%s needs --%s, or CHATSTREAM_FLAG_FILE in the environment"
                                                 : "%s%s%s needs --%s",
                               command->name, command->sub != NULL ? " " : "", command->sub != NULL ? command->sub : "",
                               option_name(bit));
        }
    }
    return CTL_OK;
}

/* What is set to nothing is not set. */
static const char *from_environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && *value != '\0' ? value : NULL;
}

static int run(ctl_t *ctl, int argc, char **argv)
{
    const command_t *command;
    int given;
    int rc = read_options(ctl, argc, argv, &given);

    if (rc != CTL_OK) {
        return rc;
    }
    if (given & OPT_VERSION) {
        puts("chatstreamctl " PACKAGE_VERSION);
        return CTL_OK;
    }
    if ((given & OPT_HELP) && ctl->words_count == 0) {
        return help_all();
    }
    command = find_command(ctl);
    if (command == NULL) {
        return CTL_USAGE;
    }
    if (given & OPT_HELP) {
        return help_one(command);
    }
    rc = check_use(ctl, command, given);
    return rc == CTL_OK ? command->run(ctl) : rc;
}

int main(int argc, char **argv)
{
    ctl_t ctl;
    int rc;

    if (apr_initialize() != APR_SUCCESS) {
        return ctl_complain("APR does not start");
    }
    memset(&ctl, 0, sizeof(ctl));
    ctl.before = -1;
    ctl.db = from_environment("CHATSTREAM_DB");
    ctl.file = from_environment("CHATSTREAM_FLAG_FILE");
    apr_pool_create(&ctl.pool, NULL);
    apr_dbd_init(ctl.pool);
    rc = run(&ctl, argc, argv);
    if (fflush(stdout) != 0 && rc == CTL_OK) {
        rc = ctl_complain("cannot write to standard output");
    }
    apr_terminate();
    return rc;
}
