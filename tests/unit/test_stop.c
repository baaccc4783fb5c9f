/* What signals do to a program that asks whether it should stop. */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../check.h"
#include "base/stop.h"

/* A child that was told to stop leaves with code 75 once its input ends; how it ended, after so many of these signals. */
static int ending(int signal_number, int times)
{
    int ready[2], go[2], status = 0;
    char byte;
    if (pipe(ready) != 0 || pipe(go) != 0)
        abort();
    pid_t child = fork();
    if (child == 0) {
        close(go[1]);
        stop_install();
        bool told = write(ready[1], "r", 1) == 1;
        while (read(go[0], &byte, 1) < 0 && errno == EINTR)
            ;
        _exit(told && stop_requested() ? 75 : 0);
    }
    EXPECT_INT(read(ready[0], &byte, 1), 1);
    for (int i = 0; i < times; i++) {
        kill(child, signal_number);
        usleep(20000);
    }
    close(go[1]);
    EXPECT_INT(waitpid(child, &status, 0), child);
    close(go[0]);
    close(ready[0]);
    close(ready[1]);
    return status;
}

/* Goal: a signal is a wish that the program sees; SIGTERM may come again, a second SIGINT ends it at once. */
static void test_signals(void)
{
    EXPECT_INT(ending(SIGTERM, 0), 0);
    const int asked[][2] = { { SIGTERM, 1 }, { SIGTERM, 3 }, { SIGINT, 1 } };
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        int status = ending(asked[i][0], asked[i][1]);
        EXPECT(WIFEXITED(status));
        EXPECT_INT(WEXITSTATUS(status), 75);
    }
    int status = ending(SIGINT, 2);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

int main(void)
{
    RUN(test_signals);
    return tests_end();
}
