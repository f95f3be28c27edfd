/* The rows and columns of one JPEG's box in, its RGB pixels out: the least that a crop-aware decoder can do.
 *
 * As libjpeg-turbo's libjpeg.txt, "Partial image decompression": columns begin at a block and are not cut further.
 */
#include <stddef.h>
#include <stdio.h>

#include <jpeglib.h>

/* Returns the number of rows written to `out`, each as wide as the box widened to blocks. */
int decode_box(const unsigned char *data, size_t size, int top, int left, int height, int width, unsigned char *out) {
  struct jpeg_decompress_struct decoder;
  struct jpeg_error_mgr errors;
  JDIMENSION x = left, across = width;
  int row = 0;

  decoder.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&decoder);
  jpeg_mem_src(&decoder, data, size);
  jpeg_read_header(&decoder, TRUE);
  decoder.out_color_space = JCS_RGB;
  jpeg_start_decompress(&decoder);
  jpeg_crop_scanline(&decoder, &x, &across);
  jpeg_skip_scanlines(&decoder, top);
  while (row < height) {
    unsigned char *line = out + (size_t)row * across * 3;
    row += jpeg_read_scanlines(&decoder, &line, 1);
  }
  jpeg_abort_decompress(&decoder);
  jpeg_destroy_decompress(&decoder);
  return row;
}
