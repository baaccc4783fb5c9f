/* commands.h - the commands of model: options to exit code. */
#ifndef MODEL_COMMANDS_H
#define MODEL_COMMANDS_H

int command_inspect(int argc, char **argv);
int command_export(int argc, char **argv);

#endif
