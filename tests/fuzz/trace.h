/* trace.h: included before every instrumented extension of the sanitizers' build (setup.py), so that it also runs where no
 * fuzzer is: each branch calls __sanitizer_cov_trace_pc, and the engine's own (engine.c), when it was loaded first, takes the
 * place of this one.
 */
#ifndef FR_FUZZ_TRACE_H
#define FR_FUZZ_TRACE_H

void __sanitizer_cov_trace_pc(void);
__attribute__((weak, visibility("default"), no_sanitize_coverage)) void __sanitizer_cov_trace_pc(void)
{
}

#endif
