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

static const ap_directive_t *find_line(const ap_directive_t *tree, const char *file, unsigned line)
{
    const ap_directive_t *found = NULL;

    for (; tree && !found; tree = tree->next) {
        if ((unsigned)tree->line_num == line && !strcasecmp(tree->directive, "SetHandler")
            && !strcmp(tree->filename, file)) {
            return tree;
        }
        found = find_line(tree->first_child, file, line);
    }
    return found;
}

static int keeps_somebody_out(const ap_directive_t *tree)
{
    for (; tree; tree = tree->next) {
        if (!strcasecmp(tree->directive, "Require")) {
            const char *args = tree->args;

            if (strncasecmp(args, "all", 3) || !strstr(args, "granted")) {
                return 1;
            }
        }
        if (!strncasecmp(tree->directive, "<Require", 8) && keeps_somebody_out(tree->first_child)) {
            return 1;
        }
    }
    return 0;
}

int cs_config_handler_is_guarded(const request_rec *r)
{
    const core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    const ap_directive_t *set =
        core->expr_handler ? find_line(ap_conftree, core->expr_handler->filename, core->expr_handler->line_number)
                           : NULL;

    return set && set->parent && keeps_somebody_out(set->parent->first_child);
}
