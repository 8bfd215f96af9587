/* SPDX-License-Identifier: Apache-2.0 */
#include "tls.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>

up_tls_context_t *up_tls_context(const char *cert_file, const char *key_file)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());

    if (context == NULL || SSL_CTX_use_certificate_chain_file(context, cert_file) != 1
        || SSL_CTX_use_PrivateKey_file(context, key_file, SSL_FILETYPE_PEM) != 1
        || SSL_CTX_check_private_key(context) != 1) {
        fprintf(stderr, "chatstream-upstream: --tls %s %s: %s\n", cert_file, key_file,
                ERR_reason_error_string(ERR_peek_last_error()));
        SSL_CTX_free(context);
        return NULL;
    }
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    /* The out buffer moves when it grows; thousands of idle sessions must not keep their record buffers. */
    SSL_CTX_set_mode(context,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    return context;
}

void up_tls_context_free(up_tls_context_t *context)
{
    SSL_CTX_free(context);
}

up_tls_t *up_tls_new(up_tls_context_t *context, int fd)
{
    SSL *tls = SSL_new(context);

    if (tls == NULL || SSL_set_fd(tls, fd) != 1) {
        SSL_free(tls);
        return NULL;
    }
    SSL_set_accept_state(tls);
    return tls;
}

void up_tls_free(up_tls_t *tls)
{
    SSL_free(tls);
}

static ssize_t failed(SSL *tls, int result)
{
    switch (SSL_get_error(tls, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        errno = ECONNRESET;
        return -1;
    }
}

ssize_t up_tls_recv(up_tls_t *tls, void *data, size_t len)
{
    int result;

    ERR_clear_error();
    result = SSL_read(tls, data, len > INT_MAX ? INT_MAX : (int)len);
    return result > 0 ? result : failed(tls, result);
}

ssize_t up_tls_send(up_tls_t *tls, const void *data, size_t len)
{
    int result;

    ERR_clear_error();
    result = SSL_write(tls, data, len > INT_MAX ? INT_MAX : (int)len);
    if (result > 0) {
        return result;
    }
    if (failed(tls, result) == 0) {
        errno = ECONNRESET;
    }
    return -1;
}

void up_tls_goodbye(up_tls_t *tls)
{
    if (SSL_is_init_finished(tls)) {
        ERR_clear_error();
        SSL_shutdown(tls);
    }
}
