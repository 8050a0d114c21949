/* tests/gpu/emu/emu_signals.cc - lets a test break the emulated devices of a running process: SIGUSR1, the next
 * piece of work never ends; SIGUSR2, it fails. */
#include <signal.h>

#include "tests/gpu/emu/gpu_emu.h"

static void on_signal(int number)
{
    if (number == SIGUSR1)
        gpu_emu_hang_after(1);
    else
        gpu_emu_fail_after(1);
}

__attribute__((constructor)) static void install()
{
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
}
