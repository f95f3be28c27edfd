"""A SavedModel's description in; what may be loaded of it out, or why it is refused.

A SavedModel is a program: TensorFlow has operations that read and write files, open connections and call Python
(https://github.com/tensorflow/tensorflow/blob/master/SECURITY.md). So operations are allowed by name. Those here
compute with what they are given and nothing else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from pipeline.errors import InputError

_ARRAYS = """
    BatchToSpaceND Bitcast BroadcastArgs BroadcastGradientArgs BroadcastTo Cast Concat ConcatOffset ConcatV2 Const
    DepthToSpace DynamicStitch EnsureShape ExpandDims Fill Gather GatherNd GatherV2 Identity IdentityN InvertPermutation
    LinSpace
    MatrixBandPart MirrorPad NoOp OneHot OnesLike Pack Pad PadV2 Placeholder PlaceholderWithDefault PreventGradient
    Range Rank Reshape Reverse ReverseV2 Roll ScatterNd Select SelectV2 Shape ShapeN Size Slice Snapshot SpaceToBatchND
    SpaceToDepth Split SplitV Squeeze StopGradient StridedSlice StridedSliceGrad TensorScatterUpdate Tile Transpose
    UnravelIndex Unpack UnsortedSegmentSum Where ZerosLike
"""
_MATHS = """
    Abs Add AddN AddV2 All Any ArgMax ArgMin BatchMatMulV2 BatchMatMulV3 BitwiseAnd BitwiseOr BitwiseXor Ceil
    CheckNumerics CheckNumericsV2 ClipByValue Cos Cumprod Cumsum Div DivNoNan Einsum Equal Erf Erfc Exp Expm1 Floor
    FloorDiv FloorMod Greater GreaterEqual Inv Invert IsFinite IsInf IsNan LeftShift Less LessEqual Log Log1p LogicalAnd
    LogicalNot LogicalOr MatMul Max Maximum Mean Min Minimum Mod Mul MulNoNan Neg NotEqual Pow Prod RealDiv Reciprocal
    RightShift Rint Round Rsqrt RsqrtGrad Sigmoid SigmoidGrad Sign Sin Sqrt SqrtGrad Square SquaredDifference Sub Sum
    Tan Tanh TanhGrad TopKV2 TruncateDiv TruncateMod Xdivy
"""
_NETWORKS = """
    AvgPool AvgPoolGrad BiasAdd BiasAddGrad Conv2D Conv2DBackpropFilter Conv2DBackpropInput DepthwiseConv2dNative
    DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Elu EluGrad FusedBatchNormGradV3
    FusedBatchNormV3 L2Loss LeakyRelu LeakyReluGrad LogSoftmax MaxPool MaxPoolGrad MaxPoolGradV2 MaxPoolV2 Relu Relu6
    Relu6Grad ReluGrad Selu SeluGrad Softmax Softplus SoftplusGrad
"""
_IMAGES = """
    AdjustContrastv2 CropAndResize DecodeAndCropJpeg DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng DecodeRaw
    DecodeWebP Dequantize EncodeJpeg EncodePng ExtractJpegShape HSVToRGB ImageProjectiveTransformV3 QuantizeV2 RGBToHSV
    ResizeArea ResizeBicubic ResizeBilinear ResizeBilinearGrad ResizeNearestNeighbor ResizeNearestNeighborGrad
    ScaleAndTranslate ScaleAndTranslateGrad
"""
_TEXTS = """
    AsString RegexFullMatch RegexReplace StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin StringLength
    StringStrip StringToNumber Substr
"""
_CONTROL = """
    Assert Case EmptyTensorList If PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile
    TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGetItem TensorListLength TensorListPopBack
    TensorListPushBack TensorListReserve TensorListSetItem TensorListStack While
"""
_VARIABLES = "ReadVariableOp ResourceGather VariableShape"
OPERATIONS = frozenset(" ".join((_ARRAYS, _MATHS, _NETWORKS, _IMAGES, _TEXTS, _CONTROL, _VARIABLES)).split())

_MAX_CONSTANT_ELEMENTS = 1 << 26

# Not resources, tables for instance: the loader runs functions to make them. An asset is a file's name, which no
# operation here reads.
_KINDS = ("asset", "bare_concrete_function", "captured_tensor", "constant", "function", "user_object", "variable", None)
# Whose classes only hold others.
_CONTAINERS = (
    "_generic_user_object", "signature_map", "trackable_dict_wrapper", "trackable_list_wrapper",
    "trackable_tuple_wrapper",
)  # fmt: skip
_REGISTERED = "tf.TrackableConstant"  # TensorFlow's own, of a constant


def checked(content: bytes, name: str) -> bytes:
    """The same SavedModel with only what its own objects call, all of which has been looked at.

    What is left out is what TensorFlow 1 would run (the main graph, initialisation, saving and restoring by operations
    on files); `tf.saved_model.load` does without.

    Args:
      content: of saved_model.pb.
      name: how messages call it.

    Raises:
      InputError: where it is damaged, or not only made of `OPERATIONS`, variables and functions.
    """
    try:
        saved = saved_model_pb2.SavedModel.FromString(content)
    except DecodeError as error:
        raise InputError(f"{name} is no SavedModel or damaged ({error}): export it again") from error
    if len(saved.meta_graphs) != 1 or not saved.meta_graphs[0].HasField("object_graph_def"):
        raise InputError(f"{name} is no SavedModel of TensorFlow 2 with one graph: export it again")
    (graph,) = saved.meta_graphs
    for asset in graph.asset_file_def:
        if asset.filename != os.path.basename(asset.filename) or asset.filename in ("", ".", ".."):
            raise InputError(f"{name} names the file {asset.filename!r}: expected one in the model's own folder")
    _check_objects(graph.object_graph_def, name)
    library = graph.graph_def.library
    functions = {function.signature.name: function for function in library.function}
    for function_name in functions:
        # TensorFlow would have to choose between the two.
        if hasattr(tf.raw_ops, function_name) or function_name[:1] == "_" != function_name[1:2]:
            raise InputError(f"{name} calls a function {function_name!r}, as an operation is called: export it again")
    if len(functions) < len(library.function):
        raise InputError(f"{name} holds two functions of the same name: export it again")
    called = _called(graph, functions)
    for function_name in sorted(called & functions.keys()):
        _check_function(functions[function_name], functions, name)

    kept = [function for function in library.function if function.signature.name in called]
    del library.function[:]
    library.function.extend(kept)
    # Objects refer to constants, the only nodes of the main graph that the loader looks at.
    constants = [node for node in graph.graph_def.node if node.op == "Const"]
    for node in constants:
        _check_constant(node, name)
    del graph.graph_def.node[:]
    graph.graph_def.node.extend(constants)
    for field in ("collection_def", "saver_def"):
        graph.ClearField(field)
    graph.meta_info_def.ClearField("stripped_op_list")
    data: bytes = saved.SerializeToString()
    return data


def _check_objects(objects: object, name: str) -> None:
    for node in objects.nodes:  # type: ignore[attr-defined]  # protobuf's messages have no types here
        kind = node.WhichOneof("kind")
        if kind not in _KINDS:
            raise InputError(f"{name} holds an object of kind {kind!r}: expected {', '.join(filter(None, _KINDS))}")
        if kind == "user_object" and node.user_object.identifier not in _CONTAINERS:
            raise InputError(f"{name} holds an object of class {node.user_object.identifier!r}: expected plain ones")
        registered = node.registered_saver or node.registered_name
        if registered not in ("", _REGISTERED):
            raise InputError(f"{name} holds an object of class {registered!r}: expected plain ones")


def _called(graph: object, functions: dict[str, function_pb2.FunctionDef]) -> set[str]:
    """Names of all functions that objects, each other, or gradients call."""
    library = graph.graph_def.library  # type: ignore[attr-defined]
    called = set(graph.object_graph_def.concrete_functions)  # type: ignore[attr-defined]
    called |= {gradient.gradient_func for gradient in (*library.gradient, *library.registered_gradients)}
    waiting = list(called & functions.keys())
    while waiting:
        found = {target for node in functions[waiting.pop()].node_def for target in _targets(node)} - called
        called |= found
        waiting += found & functions.keys()
    return called


def _targets(node: node_def_pb2.NodeDef) -> Iterator[str]:
    yield node.op  # may be a function's name, too
    for value in node.attr.values():
        yield value.func.name
        for function in value.list.func:
            yield function.name


def _check_function(
    function: function_pb2.FunctionDef, functions: dict[str, function_pb2.FunctionDef], name: str
) -> None:
    for node in function.node_def:
        if node.op not in OPERATIONS and node.op not in functions:
            raise InputError(
                f"{name} runs the operation {node.op} ({function.signature.name}/{node.name}), which may reach beyond "
                "the model: expected what `python -m trainer export` writes"
            )
        if node.op == "Const":
            _check_constant(node, name)


def _check_constant(node: node_def_pb2.NodeDef, name: str) -> None:
    """One number may stand for as many as the shape says."""
    elements = math.prod(axis.size for axis in node.attr["value"].tensor.tensor_shape.dim)
    if elements > _MAX_CONSTANT_ELEMENTS:
        raise InputError(
            f"{name} declares a constant {node.name} of {elements:,} elements: expected weights in variables"
        )
