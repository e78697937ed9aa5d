# Short names for what is done often.  All work happens in CMake (CMakePresets.json) and tools/.
#
#   make            build/tidemarkd and build/tidemark, optimised, asserts on
#   make demo       set-up, build, and the main job from end to end
#   make test       set-up, build, and every test
#   make soak       simulated crashes, on and on, until Ctrl-C
#   make stress     random operations on disks in use, seed after seed, until Ctrl-C
#   make fuzz       every parser on what a fuzzer makes up; SECONDS=300 each
#   make bench      side-by-side measurements; writes build/bench.md
#   make install    PREFIX=/usr/local, DESTDIR=

PREFIX ?= /usr/local
DESTDIR ?=
SECONDS ?= 300
NINJA = ninja -C

.PHONY: all demo test soak stress fuzz test-asan test-tsan test-clang tidy bench install clean setup-build setup-test setup-bench setup-clang

all: setup-build build/build.ninja
	$(NINJA) build tidemarkd tidemark

# What builds the programs needs no packages of tests; `make test` adds them.
build/build.ninja: | setup-build
	cmake --preset release -DTIDEMARK_TESTS=OFF -DCMAKE_INSTALL_PREFIX=$(PREFIX) >/dev/null

# Named one by one: Make looks for no pattern to make a phony target by.
setup-build setup-test setup-bench setup-clang: setup-%:
	@tools/setup $*

demo: setup-build setup-test all
	tools/demo

test: setup-build setup-test build/build.ninja
	cmake build -DTIDEMARK_TESTS=ON >/dev/null
	$(NINJA) build
	tools/tidy
	ctest --test-dir build --output-on-failure -j2

test-asan test-tsan: test-%: setup-build setup-test
	cmake --preset $* >/dev/null
	$(NINJA) build-$*
	ctest --test-dir build-$* --output-on-failure -j2

test-clang: setup-build setup-test setup-clang
	cmake --preset clang >/dev/null
	$(NINJA) build-clang
	ctest --test-dir build-clang --output-on-failure -j2

fuzz: setup-build setup-test setup-clang
	cmake --preset fuzz >/dev/null
	$(NINJA) build-fuzz fuzzers
	tools/fuzz $(SECONDS)

soak: setup-build setup-test build/build.ninja
	$(NINJA) build sim_engine_crash_test sim_tracking_store_crash_test sim_qcow2_crash_test sim_tracking_log_crash_test
	tools/soak

# The seeds of `make test` come first; the next ones are new.
stress: setup-build setup-test all
	tests/stress/stress_test.py --build build --seeds 0 --seconds 30

tidy:
	tools/tidy

bench: setup-build setup-test setup-bench build/build.ninja
	cmake build -DTIDEMARK_BENCH=ON >/dev/null
	$(NINJA) build tidemarkd tidemark nbd_load bare_pair bitmap_bench
	bench/run

install: all
	DESTDIR=$(DESTDIR) cmake --install build --prefix $(PREFIX)

clean:
	rm -rf build build-debug build-asan build-tsan build-clang build-fuzz
