/* SPDX-License-Identifier: Apache-2.0 */
/* Questions about directives of other modules, answered from the configuration tree. */
#include <string.h>

#include <apr_strings.h>
#include <http_core.h>

#include "chatstream/config.h"

static const char *find_main(const ap_directive_t *tree, const char *name)
{
    const char *found = NULL;

    for (; tree; tree = tree->next) {
        const char *inner = strcasecmp(tree->directive, "<VirtualHost") ? find_main(tree->first_child, name) : NULL;

        if (!strcasecmp(tree->directive, name)) {
            found = tree->args; /* the last one holds */
        }
        found = inner ? inner : found;
    }
    return found;
}

const char *cs_config_main_directive(const char *name)
{
    return find_main(ap_conftree, name);
}

static void collect_prepared(apr_pool_t *pool, const ap_directive_t *tree, const char *prefix, apr_hash_t *found)
{
    for (; tree; tree = tree->next) {
        if (!strcasecmp(tree->directive, "DBDPrepareSQL")) {
            const char *args = tree->args;
            const char *text = ap_getword_conf(pool, &args), *label = ap_getword_conf(pool, &args);

            if (!strncmp(label, prefix, strlen(prefix))) {
                apr_hash_set(found, label, APR_HASH_KEY_STRING, text);
            }
        }
        collect_prepared(pool, tree->first_child, prefix, found);
    }
}

apr_hash_t *cs_config_prepared(apr_pool_t *pool, const char *prefix)
{
    apr_hash_t *found = apr_hash_make(pool);

    collect_prepared(pool, ap_conftree, prefix, found);
    return found;
}

/* ---- does a section keep somebody out? ---------------------------------------------------------------------------- */

typedef enum { LETS_ALL_IN, SAYS_NOTHING, KEEPS_OUT } guard_e;

static guard_e guard_of_any(const ap_directive_t *tree);

static int next_word_is(const char **args, const char *wanted)
{
    size_t len = strlen(wanted);
    const char *rest = *args + (**args == '"' || **args == '\'');

    if (strncasecmp(rest, wanted, len) || (rest[len] && !strchr(" \t\"'", rest[len]))) {
        return 0;
    }
    rest += len;
    *args = rest + strspn(rest, " \t\"'");
    return 1;
}

/* "Require not" takes a few out of those that something else lets in; a method is nobody. */
static guard_e guard_of_require(const char *args)
{
    if (next_word_is(&args, "not") || next_word_is(&args, "method")) {
        return SAYS_NOTHING;
    }
    return next_word_is(&args, "all") && next_word_is(&args, "granted") ? LETS_ALL_IN : KEEPS_OUT;
}

static guard_e guard_of_all(const ap_directive_t *tree);

static guard_e guard_of(const ap_directive_t *directive)
{
    if (!strcasecmp(directive->directive, "Require")) {
        return guard_of_require(directive->args);
    }
    if (!strcasecmp(directive->directive, "<RequireAll")) {
        return guard_of_all(directive->first_child);
    }
    return strcasecmp(directive->directive, "<RequireAny") ? SAYS_NOTHING : guard_of_any(directive->first_child);
}

/* One that keeps out is enough. */
static guard_e guard_of_all(const ap_directive_t *tree)
{
    for (; tree; tree = tree->next) {
        if (guard_of(tree) == KEEPS_OUT) {
            return KEEPS_OUT;
        }
    }
    return LETS_ALL_IN;
}

/* Any that does not keep out may let in. What stands in no container is such a list. */
static guard_e guard_of_any(const ap_directive_t *tree)
{
    guard_e guard = SAYS_NOTHING;

    for (; tree; tree = tree->next) {
        int is_require = !strncasecmp(tree->directive, "Require", 7) || !strncasecmp(tree->directive, "<Require", 8);

        if (!strcasecmp(tree->directive, "AuthMerging") && !strncasecmp(tree->args, "Or", 2)) {
            return LETS_ALL_IN; /* whoever the sections around it let in */
        }
        if (is_require && guard_of(tree) != KEEPS_OUT) {
            return LETS_ALL_IN;
        }
        guard = is_require ? KEEPS_OUT : guard;
    }
    return guard;
}

/* A file may be included in several sections: each of them counts. `*found`: how many SetHandler stand on that line. */
static int all_are_guarded(const ap_directive_t *tree, const char *file, unsigned line, int *found)
{
    for (; tree; tree = tree->next) {
        if ((unsigned)tree->line_num == line && !strcasecmp(tree->directive, "SetHandler")
            && !strcmp(tree->filename, file)) {
            ++*found;
            if (!tree->parent || guard_of_any(tree->parent->first_child) != KEEPS_OUT) {
                return 0;
            }
        }
        if (!all_are_guarded(tree->first_child, file, line, found)) {
            return 0;
        }
    }
    return 1;
}

int cs_config_handler_is_guarded(const request_rec *r)
{
    const core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    const ap_expr_info_t *set = core->expr_handler;
    int found = 0;

    return set && all_are_guarded(ap_conftree, set->filename, set->line_number, &found) && found;
}
