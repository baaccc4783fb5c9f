/*
 * check.h - what must hold if this program is right, in every build.
 *
 * CHECK is for our own mistakes only.  What a peer, a file or a user sent is
 * refused with a message instead (log.h).
 */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

_Noreturn void check_failed(const char *expression, const char *file, int line);

#define CHECK(expression) \
    ((expression) ? (void)0 : check_failed(#expression, __FILE__, __LINE__))

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
