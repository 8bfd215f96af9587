/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crc32c: the checksum of Castagnoli (RFC 3720 appendix B.4), by the processor's own instruction where it has one. Finds what a disk
 * or a crash did; no protection against anybody. Any thread.
 */
#ifndef CS_RECORD_CRC32C_H
#define CS_RECORD_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t cs_crc32c(const void *bytes, size_t len);

#endif
