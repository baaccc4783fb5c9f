/*
 * stop.h - SIGTERM and SIGINT as a question: finish what is held, then leave.
 */
#ifndef BASE_STOP_H
#define BASE_STOP_H

#include <stdbool.h>

/* Handlers without SA_RESTART, so a blocking call returns with EINTR.  SIGPIPE is ignored.  A second SIGINT ends at once; SIGTERM
   may come twice for one wish, as timeout(1) sends it to its command and to the group. */
void stop_install(void);
bool stop_requested(void);

#endif
