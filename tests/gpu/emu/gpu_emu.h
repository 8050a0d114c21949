/* tests/gpu/emu/gpu_emu.h - what a test may ask of the emulated devices.  Before gpu_open; for all devices. */
#ifndef TESTS_GPU_EMU_GPU_EMU_H
#define TESTS_GPU_EMU_GPU_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gpu;

#ifdef __cplusplus
extern "C" {
#endif

void gpu_emu_devices(uint32_t n);    /* 2 unless said */
void gpu_emu_memory(uint64_t bytes); /* of each device; 1 GiB unless said */
void gpu_emu_fail_after(
    uint32_t n); /* the n-th piece of work from now breaks its device; 0: none does */
void gpu_emu_hang_after(
    uint32_t n); /* the n-th piece of work from now never ends (until gpu_close) */
uint32_t gpu_emu_streams(struct gpu *g,
                         bool high); /* open ones of this kind; which of them runs is chance */
void gpu_emu_reset(void);            /* as at start; no device may be open */

#ifdef __cplusplus
}
#endif
#endif
