/* stop.c - see stop.h. */
#define _GNU_SOURCE
#include "base/stop.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t stop_signal;

static void stop_note(int signal_number)
{
    stop_signal = signal_number;
}

void stop_install(void)
{
    struct sigaction action = { .sa_handler = stop_note };
    sigaction(SIGTERM, &action, NULL);
    action.sa_flags = SA_RESETHAND;
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

bool stop_requested(void)
{
    return stop_signal != 0;
}
