/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <apr_strings.h>
#include <curl/curl.h>

#include "chatstream/upstream.h"

static const char *part(apr_pool_t *pool, CURLU *url, CURLUPart what, unsigned flags)
{
    char *text = NULL;
    const char *copy = NULL;

    if (curl_url_get(url, what, &text, flags) == CURLUE_OK && text) {
        copy = apr_pstrdup(pool, text);
    }
    curl_free(text);
    return copy;
}

/* What a request says to it: Host without the scheme's own port, and the path as HTTP writes it. */
static const char *request_pieces(apr_pool_t *pool, CURLU *url, cs_upstream_t *upstream)
{
#ifdef CURLU_PUNYCODE
    const char *host = part(pool, url, CURLUPART_HOST, CURLU_PUNYCODE);
#else
    const char *host = part(pool, url, CURLUPART_HOST, 0);
#endif
    const char *port = part(pool, url, CURLUPART_PORT, CURLU_NO_DEFAULT_PORT);
    const char *path = part(pool, url, CURLUPART_PATH, CURLU_URLENCODE);
    const char *query = part(pool, url, CURLUPART_QUERY, CURLU_URLENCODE);

    if (!host || !path) {
        return "its host or path cannot be written in a request";
    }
    upstream->host = apr_pstrcat(pool, host, port ? ":" : "", port ? port : "", NULL);
    upstream->target = apr_pstrcat(pool, path, query ? "?" : "", query ? query : "", NULL);
    return NULL;
}

const char *cs_upstream_parse(apr_pool_t *pool, const char *text, cs_upstream_t *upstream)
{
    CURLU *url;
    const char *error = NULL, *scheme, *host, *port;

    if (!strncmp(text, "unix:", 5)) {
        const char *bar = strchr(text, '|');

        if (!bar || bar == text + 5) {
            return "a unix socket is given as unix:/path/to/socket|http://host/path";
        }
        upstream->unix_socket = apr_pstrndup(pool, text + 5, (apr_size_t)(bar - text - 5));
        text = bar + 1;
        if (upstream->unix_socket[0] != '/' || strlen(upstream->unix_socket) > 107) {
            return "the unix socket's path must be absolute and at most 107 bytes";
        }
    }
    url = curl_url();
    if (!url) {
        return "out of memory";
    }
    if (curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK || !(scheme = part(pool, url, CURLUPART_SCHEME, 0))
        || (strcmp(scheme, "http") && strcmp(scheme, "https")) || !(host = part(pool, url, CURLUPART_HOST, 0))) {
        error = "not a URL of the form http://host[:port]/path or https://host[:port]/path";
    }
    else {
        port = part(pool, url, CURLUPART_PORT, 0);
        upstream->name = apr_pstrcat(pool, upstream->unix_socket ? upstream->unix_socket : "",
                                     upstream->unix_socket ? "|" : "", scheme, "://", host, port ? ":" : "",
                                     port ? port : "", part(pool, url, CURLUPART_PATH, 0), NULL);
        if (part(pool, url, CURLUPART_USER, 0) || part(pool, url, CURLUPART_PASSWORD, 0)) {
            error = "no user or password in the URL; use ChatStreamUpstreamHeader Authorization";
        }
        else {
            upstream->url = part(pool, url, CURLUPART_URL, 0);
            upstream->is_tls = !strcmp(scheme, "https");
            error = request_pieces(pool, url, upstream);
        }
    }
    curl_url_cleanup(url);
    return error;
}
