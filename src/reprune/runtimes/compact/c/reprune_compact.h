/* Decodes a compact model file (format 2, "mcu") in integers, row by row, without malloc.
 *
 * Define before the first #include, as the generated model header does:
 *   REPRUNE_MAX_ROWS, REPRUNE_MAX_COLUMNS   the largest matrix (first dimension, all others)
 *   REPRUNE_MAX_VALUES                      the largest code book
 * Every call gives 0, or a negative REPRUNE_E_... error.
 */
#ifndef REPRUNE_COMPACT_H
#define REPRUNE_COMPACT_H

#include <stdint.h>

#define REPRUNE_E_FORMAT (-1)   /* not a compact file of format 2 */
#define REPRUNE_E_CHECKSUM (-2) /* the file was changed or cut short */
#define REPRUNE_E_SIZE (-3)     /* larger than the REPRUNE_MAX_... it was compiled for */
#define REPRUNE_E_ORDER (-4)    /* no tensor, or no row, is left */
#define REPRUNE_E_SHAPE (-5)    /* the tensors are not those of an MLP, or do not fit its input */

#define REPRUNE_MAX_DIMENSIONS 8

#if REPRUNE_MAX_VALUES > 128
#define REPRUNE_NODES 256
#elif REPRUNE_MAX_VALUES > 32
#define REPRUNE_NODES 128
#elif REPRUNE_MAX_VALUES > 8
#define REPRUNE_NODES 32
#else
#define REPRUNE_NODES 8
#endif

typedef struct {
    uint16_t one; /* probability of a one */
    uint8_t seen;
} reprune_context;

/* The tensor being read: code c stands for levels[c] * 2^exponent. */
typedef struct {
    uint32_t rows, columns;
    uint16_t width, values;
    uint8_t depth;
    int8_t exponent;
    int16_t levels[REPRUNE_MAX_VALUES + 1];
} reprune_tensor;

typedef struct {
    const uint8_t *data;
    uint32_t size, header, coded, tensors;
    uint32_t low, high, code;
    uint32_t row, done, live_count, fed_count, final;
    reprune_tensor tensor;
    reprune_context flags[24], cells[12], nodes[3 * REPRUNE_NODES];
    uint16_t counts[REPRUNE_MAX_COLUMNS];
    uint8_t codes[REPRUNE_MAX_COLUMNS];
    uint8_t columns[(REPRUNE_MAX_COLUMNS + 7) / 8];
    uint8_t live[(REPRUNE_MAX_ROWS + 7) / 8], fed[(REPRUNE_MAX_ROWS + 7) / 8];
} reprune_reader;

/* The CRC-32 that a file ends in. */
uint32_t reprune_checksum(const uint8_t *data, uint32_t size);

/* Checks the whole file; `data` must stay where it is while the reader is used. */
int reprune_open(reprune_reader *reader, const uint8_t *data, uint32_t size);

/* Goes to the next tensor and fills in reader->tensor. Every row of the one before must have been read. */
int reprune_next_tensor(reprune_reader *reader);

/* Reads one row into reader->codes (reader->tensor.columns of them). */
int reprune_next_row(reprune_reader *reader);

/* Runs the file as an MLP: weight and bias tensors in turn, ReLU between the layers. Numbers are fixed
 * point with REPRUNE_POINT bits after the point; what is too large for 32 bits becomes the largest number
 * they hold. `values` holds the input and, at the end, the logits;
 * both arrays have room for the widest layer. *outputs is set to how many logits there are.
 */
#define REPRUNE_POINT 12
int reprune_run_mlp(reprune_reader *reader, uint32_t inputs, int32_t *values, int32_t *spare,
                    uint32_t *outputs);

#endif
