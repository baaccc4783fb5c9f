# vas: value-augmented sampling as a pipeline of small programs.  'make help' lists the targets.

# The programs, in the order in which data meets them.
STAGES = store tokenize rollout reward value-target train decode report tap model

CC = gcc
CFLAGS = -O2 -g
PREFIX = /usr/local
BUILD = build
BIN = bin
PKG_CONFIG = pkg-config

LIBRARIES = libzmq msgpack openblas sqlite3 jansson libpcre2-8 utf8proc libsodium zlib
utf8proc_NAME = libutf8proc
PACKAGES = $(foreach library,$(LIBRARIES),$(or $($(library)_NAME),$(library)))

WARNINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
# Products and sums are fused wherever the processor can, in vector and scalar code alike; nothing else is loosened.
# Clang makes one instruction of x * y + z in one place and not in the other: a row's bits would depend on the rows beside it.
CONTRACT = $(if $(findstring clang,$(CC)),off,fast)
DIALECT = -std=gnu11 -ffp-contract=$(CONTRACT) -fno-math-errno
INCLUDES = -Icommon -Istages -Ischemas -I$(BUILD)
ALL_CFLAGS = $(DIALECT) $(WARNINGS) $(INCLUDES) $(shell $(PKG_CONFIG) --cflags $(PACKAGES)) -MMD -MP $(CFLAGS)
ALL_LIBS = $(shell $(PKG_CONFIG) --libs $(PACKAGES)) $(MPI_LIBS) -lm -lpthread $(LDFLAGS)

ifneq ($(V),1)
Q = @
say = @printf '  %-5s %s\n' $(1) $(2)
endif

# 'make MPI=1' lets mpirun start train as several ranks; nothing else needs MPI.
RANKS = $(if $(MPI),mpi,alone)
ifneq ($(MPI),)
MPI_CFLAGS = $(shell $(PKG_CONFIG) --cflags ompi-c)
MPI_LIBS = -Wl,--as-needed $(shell $(PKG_CONFIG) --libs ompi-c) -Wl,--no-as-needed
endif

COMMON_SOURCES = $(filter-out common/math/kernels_isa.c common/math/kernels_codes.c common/learn/ranks_%.c,\
    $(wildcard common/*/*.c)) common/learn/ranks_$(RANKS).c
KERNEL_OBJECTS = $(foreach isa,avx512 avx2 portable,$(BUILD)/common/math/kernels_$(isa).o)
CODES_OBJECTS = $(foreach isa,maddubs avxvnni,$(BUILD)/common/math/kernels_$(isa).o)
PRODUCT_OBJECTS = $(foreach isa,vnni amx halves,$(BUILD)/common/math/kernels_$(isa).o)
COMMON_OBJECTS = $(COMMON_SOURCES:%.c=$(BUILD)/%.o) $(KERNEL_OBJECTS) $(CODES_OBJECTS)
STAGE_PARTS = $(patsubst %.c,$(BUILD)/%.o,$(filter-out %/main.c,$(wildcard stages/*/*.c)))
STAGE_MAINS = $(STAGES:%=$(BUILD)/stages/%/main.o)
PROGRAMS = $(STAGES:%=$(BIN)/%)

TEST_SOURCES = $(wildcard $(addsuffix /test_*.c,tests/unit tests/grad tests/parity tests/stage tests/fault))
TEST_PROGRAMS = $(TEST_SOURCES:%.c=$(BUILD)/%)
TEST_TOOLS = $(BUILD)/tests/fault/relay
FUZZ_SOURCES = $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_PROGRAMS = $(FUZZ_SOURCES:%.c=$(BUILD)/%)

.PHONY: all
all: $(PROGRAMS)  ## the programs, into bin/

$(PROGRAMS): $(BIN)/%: $(BUILD)/stages/%/main.o $(BUILD)/libstages.a $(BUILD)/libvas.a
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ $(ALL_LIBS)

$(BUILD)/libvas.a: $(COMMON_OBJECTS) $(BUILD)/ranks_$(RANKS)
$(BUILD)/libstages.a: $(STAGE_PARTS)
$(BUILD)/lib%.a:
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $(filter %.o,$^)

# Says which the library has.
$(BUILD)/ranks_$(RANKS):
	@mkdir -p $(@D)
	@rm -f $(BUILD)/ranks_* && touch $@

# The compiler needs minutes for their unrolled loops under sanitizers: then they have -O1, and of ASan and UBSan together only
# the first.
KERNEL_LEVEL = $(if $(findstring -fsanitize,$(CFLAGS)),-O1,-O3)
KERNEL_CC = $(CC) $(subst =address$(comma)undefined,=address,$(ALL_CFLAGS)) $(KERNEL_LEVEL) $(ISA_FLAGS)
comma = ,
AVX512_FLAGS = -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
$(BUILD)/common/math/kernels_avx512.o: ISA_FLAGS = $(AVX512_FLAGS)
AVX2_FLAGS = -mno-avx512f -mavx2 -mfma -mf16c  # without AVX-512 also where CFLAGS ask for it
$(BUILD)/common/math/kernels_avx2.o: ISA_FLAGS = $(AVX2_FLAGS)
$(BUILD)/common/math/kernels_maddubs.o: ISA_FLAGS = $(AVX2_FLAGS) -mno-avxvnni
$(BUILD)/common/math/kernels_avxvnni.o: ISA_FLAGS = $(AVX2_FLAGS) -mavxvnni
$(BUILD)/common/math/kernels_portable.o: ISA_FLAGS =
$(BUILD)/common/math/kernels_vnni.o: ISA_FLAGS = $(AVX512_FLAGS) -mavx512vnni
$(BUILD)/common/math/kernels_amx.o $(BUILD)/common/math/kernels_halves.o: \
    ISA_FLAGS = $(AVX512_FLAGS) -mamx-tile -mamx-bf16 -mamx-int8
$(KERNEL_OBJECTS): $(BUILD)/common/math/kernels_%.o: common/math/kernels_isa.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(KERNEL_CC) -DKERNELS_ISA=$* -c -o $@ $<
$(CODES_OBJECTS): $(BUILD)/common/math/kernels_%.o: common/math/kernels_codes.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(KERNEL_CC) -DCODES_ISA=$* -c -o $@ $<
$(PRODUCT_OBJECTS): $(BUILD)/common/math/kernels_%.o: common/math/kernels_%.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(KERNEL_CC) -c -o $@ $<

# The versions of the store's format as C strings, one for each text between "-- version" markers.
$(BUILD)/store_sql.h: schemas/store.sql
	@mkdir -p $(@D)
	$(Q)sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/"&\\n"/; s/^"-- version/,\n&/' $< >$@
$(BUILD)/common/store/db.o $(BUILD)/tests/unit/test_scale.o: $(BUILD)/store_sql.h

$(BUILD)/common/learn/product_avx2.o: ALL_CFLAGS += $(AVX2_FLAGS) -O3
$(BUILD)/common/learn/product_avx512.o: ALL_CFLAGS += $(AVX512_FLAGS) -O3
$(BUILD)/common/learn/product_amx.o: ALL_CFLAGS += $(AVX512_FLAGS) -mavx512bf16 -mamx-tile -mamx-bf16 -O3
$(BUILD)/common/learn/ranks_mpi.o: ALL_CFLAGS += $(MPI_CFLAGS)
$(BUILD)/%.o: %.c
	$(call say,CC,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(TEST_PROGRAMS) $(TEST_TOOLS): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/libstages.a $(BUILD)/libvas.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ $(ALL_LIBS)

# Without libFuzzer each fuzzer replays its corpus and random damage to it (tests/fuzz/replay.c).
$(FUZZ_PROGRAMS): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/tests/fuzz/replay.o $(BUILD)/libstages.a $(BUILD)/libvas.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ $(ALL_LIBS)

BENCH_PROGRAMS = $(patsubst %.c,$(BUILD)/%,$(filter-out %/limits.c,$(wildcard tests/bench/*.c)))
$(BENCH_PROGRAMS): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/tests/bench/limits.o $(BUILD)/libstages.a $(BUILD)/libvas.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -o $@ $^ $(ALL_LIBS)

.PHONY: bench
bench: bench-programs  ## how fast it is beside llama.cpp, PyTorch and llama2.c; ROUNDS=1 for a first look
	tests/bench/bench.sh $(if $(ROUNDS),--rounds $(ROUNDS)) --json $(BUILD)/bench.json

.PHONY: bench-programs
bench-programs: all $(BENCH_PROGRAMS)  ## what tests/bench/*.sh need

.PHONY: test-programs
test-programs: all $(TEST_PROGRAMS) $(TEST_TOOLS) $(FUZZ_PROGRAMS)

.PHONY: demo
demo:  ## the main job on data of its own (pipelines/demo.sh)
	pipelines/demo.sh

.PHONY: test
test:  ## every test (tests/run.sh)
	tests/run.sh

# check-asan, check-ubsan, check-tsan: the C tests in a build of their own.
SANITIZER_asan = address
SANITIZER_ubsan = undefined -fno-sanitize-recover=undefined
SANITIZER_tsan = thread
.PHONY: check-asan check-ubsan check-tsan check-valgrind
check-asan check-ubsan check-tsan: check-%:  ## the C tests under a sanitizer
	$(Q)$(MAKE) BUILD=build-$* BIN=build-$*/bin CFLAGS='-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZER_$*)' test-programs
	$(Q)for test in $(TEST_SOURCES:%.c=build-$*/%); do \
	    TSAN_OPTIONS=ignore_noninstrumented_modules=1 BIN=build-$*/bin $$test || exit 1; done
check-valgrind: test-programs  ## the C tests under valgrind (needs valgrind, and VAS_KERNELS=maddubs: it knows no AVX-512)
	$(Q)for test in $(TEST_PROGRAMS); do \
	    VAS_KERNELS=maddubs valgrind -q --error-exitcode=1 $$test || exit 1; done

.PHONY: fuzz
fuzz:  ## every fuzzer under libFuzzer for FUZZ_SECONDS each (needs clang)
	$(Q)$(MAKE) BUILD=build-fuzz BIN=build-fuzz/bin CC=clang CFLAGS='-O1 -g -fsanitize=address,undefined,fuzzer-no-link' \
	    build-fuzz/libvas.a build-fuzz/libstages.a $(FUZZ_SOURCES:%.c=build-fuzz/%.o)
	$(Q)for fuzzer in $(basename $(notdir $(FUZZ_SOURCES))); do \
	    clang -g -fsanitize=address,undefined,fuzzer -o build-fuzz/$$fuzzer build-fuzz/tests/fuzz/$$fuzzer.o \
	        build-fuzz/libstages.a build-fuzz/libvas.a $(ALL_LIBS) && mkdir -p build-fuzz/found/$$fuzzer && \
	    build-fuzz/$$fuzzer -max_total_time=$(FUZZ_SECONDS) -close_fd_mask=3 -artifact_prefix=build-fuzz/ \
	        build-fuzz/found/$$fuzzer tests/fuzz/corpus/$${fuzzer#fuzz_} || exit 1; done
FUZZ_SECONDS = 60

.PHONY: install
install: all  ## programs into PREFIX/libexec/vas, and the command 'vas PROGRAM ...' into PREFIX/bin
	install -d $(DESTDIR)$(PREFIX)/libexec/vas $(DESTDIR)$(PREFIX)/bin
	install $(PROGRAMS) $(DESTDIR)$(PREFIX)/libexec/vas
	sed 's|@LIBEXEC@|$(PREFIX)/libexec/vas|' pipelines/vas.sh >$(DESTDIR)$(PREFIX)/bin/vas
	chmod 755 $(DESTDIR)$(PREFIX)/bin/vas

.PHONY: clean
clean:  ## remove what was built
	rm -rf $(BUILD) build-* $(BIN)

.PHONY: help
help:  ## this list
	@sed -n 's/^\([a-z][a-z -]*\):.*  ## \(.*\)/  \1\t\2/p' Makefile | expand -t 36

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.SECONDARY:
