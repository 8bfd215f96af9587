/* SPDX-License-Identifier: Apache-2.0 */
/* What comes before httpd's access control and every handler: CORS and identity; and the check_authn hook that says 401. */
#ifndef CS_REQUEST_ARRIVAL_H
#define CS_REQUEST_ARRIVAL_H

void cs_arrival_register_hooks(void);

#endif
