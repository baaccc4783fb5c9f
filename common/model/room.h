/*
 * room.h - whether this process may have the memory that a model takes.
 *
 * An estimate: others may take what is free now.  Pages of files that the kernel can drop count as free, and so
 * do packed weights that other processes have mapped (packed_file.h): a worker that will share them is not refused for them.
 */
#ifndef MODEL_ROOM_H
#define MODEL_ROOM_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that are left to this process, and which bound says so: the machine's memory, its control group's, its address space's. */
size_t room_bytes(const char **bound);

/* The same of one control group (version 2): path below root, where memory.max and memory.current are files; the groups above
   it count too.  root begins with a slash and does not end with one.  SIZE_MAX without a limit. */
size_t room_group_bytes(const char *root, const char *path);

/* States what a model takes.  0, or EX_OSERR with the reason logged when there is not so much. */
int room_check(const char *name, int64_t parameter_count, size_t size_bytes);

#endif
