/* SPDX-License-Identifier: Apache-2.0 */
/*
 * base64url: RFC 4648 section 5 as RFC 7515 wants it: one text for each value. Padding, white space, line ends, other characters and
 * last bits that are not zero are refused, so that no byte of a token can be changed without its signature noticing. Any thread.
 */
#ifndef CHATSTREAM_GATE_BASE64URL_H
#define CHATSTREAM_GATE_BASE64URL_H

#include <stddef.h>

/* Bytes that `len` characters make. */
#define CS_BASE64URL_BYTES(len) ((len) / 4 * 3 + ((len) % 4 ? (len) % 4 - 1 : 0))

/*
 * 1, and CS_BASE64URL_BYTES(len) bytes in `out`; 0: this is not base64url, `out` holds nothing of use. `out` NULL: only looks.
 */
int cs_base64url_decode(const char *text, size_t len, unsigned char *out);

#endif
