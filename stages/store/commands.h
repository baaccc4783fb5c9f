/*
 * commands.h - what 'store COMMAND' does.  Each takes the command line from its own name on, and returns the exit code.
 */
#ifndef STORE_COMMANDS_H
#define STORE_COMMANDS_H

int command_serve(int argc, char **argv);
int command_status(int argc, char **argv);
int command_export(int argc, char **argv);
int command_retry(int argc, char **argv);
int command_backup(int argc, char **argv);
int command_digest(int argc, char **argv);
int command_keygen(int argc, char **argv);
int command_share(int argc, char **argv);

#endif
