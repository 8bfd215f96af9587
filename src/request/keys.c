/* SPDX-License-Identifier: Apache-2.0 */
/* What ChatStreamJWTKey and ChatStreamJWKS name becomes keys: files once, before the fork; URLs in watchdog threads, again and again. */
#include <string.h>

#include <httpd.h>
#include <http_log.h>
#include <http_main.h>

#include "chatstream/config.h"
#include "chatstream/gate.h"
#include "chatstream/request.h"
#include "chatstream/upstream.h"

APLOG_USE_MODULE(chatstream);

#define KEY_FILE_MAX  (1024 * 1024)
#define FETCH_TIMEOUT apr_time_from_sec(5)

static apr_status_t destroy_keys(void *keys)
{
    cs_keys_destroy(keys);
    return APR_SUCCESS;
}

static apr_status_t destroy_jwks(void *jwks)
{
    cs_jwks_destroy(jwks);
    return APR_SUCCESS;
}

static int refuse_source(server_rec *server, const cs_key_source_t *source, const char *why)
{
    ap_log_error(APLOG_MARK, APLOG_EMERG, 0, server, "chatstream: %s: '%s': %s", source->directive, source->place, why);
    return HTTP_INTERNAL_SERVER_ERROR;
}

static int load_file(apr_pool_t *pconf, server_rec *server, cs_key_source_t *source)
{
    char error[256];
    cs_buf_t file;
    apr_status_t rv;
    apr_pool_t *pool;

    apr_pool_create(&pool, pconf);
    cs_buf_init(&file, KEY_FILE_MAX);
    rv = cs_config_read_file(pool, source->place, &file, error, sizeof(error));
    if (!rv) {
        rv = source->algorithm
                 ? cs_keys_from_file(&source->keys, source->algorithm, file.data ? file.data : "", file.len, error,
                                     sizeof(error))
                 : cs_keys_from_jwks(&source->keys, file.data ? file.data : "", file.len, error, sizeof(error));
    }
    if (file.data) {
        explicit_bzero(file.data, file.cap); /* a secret has no business lying about in the heap of every child */
    }
    cs_buf_free(&file);
    apr_pool_destroy(pool);
    if (rv) {
        return refuse_source(server, source, error);
    }
    apr_pool_cleanup_register(pconf, source->keys, destroy_keys, apr_pool_cleanup_null);
    return OK;
}

int cs_request_load_keys(apr_pool_t *pconf, server_rec *server)
{
    cs_key_source_t *source;

    for (source = cs_config_key_sources(); source; source = source->next) {
        if (!source->is_url) {
            if (load_file(pconf, server, source) != OK) {
                return HTTP_INTERNAL_SERVER_ERROR;
            }
        }
        else {
            if (cs_jwks_create(&source->jwks)) {
                return refuse_source(server, source, "out of memory");
            }
            apr_pool_cleanup_register(pconf, source->jwks, destroy_jwks, apr_pool_cleanup_null);
        }
    }
    return OK;
}

static void fetch(cs_key_source_t *source)
{
    char error[256] = "";
    cs_keys_t *keys = NULL;
    cs_buf_t text;
    apr_status_t rv;

    cs_buf_init(&text, KEY_FILE_MAX);
    rv = cs_fetch(source->place, source->ca_file, FETCH_TIMEOUT, &text, error, sizeof(error));
    if (!rv) {
        rv = cs_keys_from_jwks(&keys, text.data ? text.data : "", text.len, error, sizeof(error));
    }
    cs_buf_free(&text);
    if (rv) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                     "chatstream: %s: '%s': %s; the last good set stays in force", source->directive, source->place,
                     error);
    }
    cs_jwks_update(source->jwks, rv ? NULL : keys, cs_clock_mono());
}

void cs_request_fetch_keys(cs_key_source_t *source)
{
    if (cs_jwks_is_due(source->jwks, cs_clock_mono())) {
        fetch(source);
    }
}
