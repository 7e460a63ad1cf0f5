/* Runs a Reprune engine for microcontrollers straight from flash: C99, no malloc, activations in float.
 *
 * The generated reprune_model.h, to be included first, defines REPRUNE_ARENA (how many floats all
 * activations need together), REPRUNE_INPUT_n and REPRUNE_OUTPUT_n (where they lie in them) and
 * REPRUNE_USES_EXP (0: nothing of math.h is called). Typical use:
 *
 *     static reprune_machine machine;
 *     memcpy(machine.arena + REPRUNE_INPUT_0, image, sizeof image);
 *     if (reprune_infer(&machine, reprune_model, REPRUNE_MODEL_SIZE) != 0) ...
 *     use(machine.arena + REPRUNE_OUTPUT_0);
 *
 * Inputs are not kept: write them again before every call.
 */
#ifndef REPRUNE_INFER_H
#define REPRUNE_INFER_H

#include "reprune_compact.h"

typedef struct {
    reprune_reader reader;
    float arena[REPRUNE_ARENA];
} reprune_machine;

/* 0, or a negative REPRUNE_E_... of reprune_compact.h. Whatever the bytes are, it reads nothing beyond
 * them, writes nothing outside the machine, and ends.
 */
int reprune_infer(reprune_machine *machine, const uint8_t *engine, uint32_t size);

#endif
