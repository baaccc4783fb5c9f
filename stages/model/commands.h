/* commands.h - the commands of model: options to exit code. */
#ifndef MODEL_COMMANDS_H
#define MODEL_COMMANDS_H

int model_inspect_command(int argc, char **argv);
int model_export_command(int argc, char **argv);

#endif
