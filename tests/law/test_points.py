"""Reading anyone's points: what is good comes through unchanged, what is bad is named in one line with its row."""

import os
from pathlib import Path

import pytest

from isoflop.errors import InputError
from isoflop.law import Point, fit_law, read_points

GOOD = "params,tokens,loss\n1e8,2e9,3.0\n2e8,4e9,2.8\n4e8,8e9,2.6\n"


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "points.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_flops_default_to_6nd_in_floats_that_64_bit_integers_cannot_hold(tmp_path: Path) -> None:
    text = "params,tokens,loss\n1000000000,20000000000,3\n2000000000,40000000000,2.8\n400000000000,8000000000000,2\n"
    points = read_points(write(tmp_path, text))
    assert points[2] == Point(4e11, 8e12, 2.0, 1.92e25, "row 4", None, "6ND")


def test_bom_crlf_spaces_and_other_columns_do_not_matter(tmp_path: Path) -> None:
    text = "\ufeffname, Params ,tokens,loss,date\r\na,1e8,2e9,3.0,x\r\n\r\nb,2e8,4e9, 2.8,\r\nc,4e8,8e9,2.6,x\r\n"
    assert [p.loss for p in read_points(write(tmp_path, text))] == [3.0, 2.8, 2.6]


def test_run_noise_flops_and_bits_per_byte_are_read(tmp_path: Path) -> None:
    text = (
        "params,tokens,bits_per_byte,flops,run,noise\n1e8,2e9,1.2,2e18,a,\n2e8,4e9,1.1,5e18,b,0.01\n4e8,8e9,1,3e19,c,\n"
    )
    assert read_points(write(tmp_path, text))[1] == Point(2e8, 4e9, 1.1, 5e18, "b", 0.01, "given")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty; the first row must name the columns params, tokens and loss"),
        ("params,tokens,loss\n", "no points under the header"),
        ("size,tokens\n1,2\n", "no column params, loss (or bits_per_byte); there are size, tokens; needed are"),
        ("params;tokens;loss\n1;2;3\n", "separated by commas"),
        ("params,tokens,loss,loss\n1,2,3,4\n", "row 1: two columns are named 'loss'"),
        (GOOD + "70M,2e9,2.5\n", "row 5: params = '70M' is not a number; write 70000000"),
        (GOOD + "1.5B,2e9,2.5\n", "write 1500000000"),
        (GOOD + '"70,000,000",2e9,2.5\n', "write 70000000"),
        (GOOD + '7e7,2e9,"2,5"\n', "row 5: loss = '2,5' is not a number; write 2.5"),
        (GOOD + '7e7,2e9,"2,512"\n', "write 2.512"),
        (GOOD + '"70,5",2e9,2.5\n', "write 70.5"),
        (GOOD + "many,2e9,2.5\n", "row 5: params = 'many' is not a number; write digits, as in 70000000 or 7e7"),
        (GOOD + "8e8,,2.5\n", "row 5: tokens is empty"),
        (GOOD + "8e8\n", "row 5: tokens is empty"),
        (GOOD + "8e8,2e9,2.5,7\n", "row 5: more fields than the header"),
        (GOOD + "8e8,2e9,nan\n", "row 5: loss = nan; give a finite number above 0"),
        (GOOD + "8e8,2e9,inf\n", "row 5: loss = inf"),
        (GOOD + "8e8,-2e9,2.5\n", "row 5: tokens = -2e9"),
        (GOOD + "8e8,2e9,0\n", "row 5: loss = 0"),
        (GOOD + "1e400,2e9,2.5\n", "row 5: params = 1e400"),
        (GOOD + "1e200,1e200,2.5\n", "flops = inf"),
        (GOOD + '8e8,"2e9,2.5\n', "not valid CSV"),
        (GOOD.replace("\n4e8,8e9,2.6", ""), "2 distinct params (100000000, 200000000); a law needs 3 or more"),
        ("params,tokens,loss\n" + "1e8,2e9,3\n" * 4, "1 distinct params (100000000)"),
        ("params,tokens,loss\n1e8,8e9,3\n2e8,4e9,3\n4e8,2e9,3\n", "1 distinct flops; a law needs 3 or more"),
        ("params,tokens,loss,flops\n1e8,2e9,3,1e18\n2e8,4e9,2.8,\n4e8,8e9,2.6,1e20\n", "row 3: flops is empty"),
        (GOOD.replace("loss\n", "loss,noise\n").replace("3.0\n", "3.0,0\n"), "row 2: noise = 0"),
        (b"params,tokens,loss\n\xff\xfe1,2,3\n", "not UTF-8 at byte 19"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_points(path)
    message = str(caught.value)
    assert says in message
    assert message.startswith(str(path))
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "absent.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=says):
            read_points(path)


def test_a_row_given_twice_counts_once_and_is_told_but_equal_seeds_stay(tmp_path: Path) -> None:
    once = fit_law(read_points(write(tmp_path, GOOD)))
    twice = fit_law(read_points(write(tmp_path, GOOD + "4e8,8e9,2.6\n")))
    assert any("1 duplicated row" in warning for warning in twice.warnings)
    assert twice.predict(8e8, 1.6e10) == once.predict(8e8, 1.6e10)
    seeds = "params,tokens,loss,run\n1e8,2e9,3,a\n1e8,2e9,3,b\n2e8,4e9,2.8,c\n4e8,8e9,2.6,d\n"
    assert len(fit_law(read_points(write(tmp_path, seeds))).points) == 4


def test_which_parameters_were_counted_is_kept_and_not_mixed(tmp_path: Path) -> None:
    points = read_points(write(tmp_path, GOOD.replace("params", "params_non_embedding")))
    assert {point.counted_params for point in points} == {"without embeddings"}
    both = read_points(write(tmp_path, "params_non_embedding," + GOOD.replace("\n", "\n1,").removesuffix("1,")))
    assert both == read_points(write(tmp_path, GOOD))
    with pytest.raises(InputError, match="params counted in different ways"):
        fit_law([*points, Point(8e8, 2e9, 2.4, 9.6e18, "x", convention="6ND")])


def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=r"no plain file\); give a CSV file"):
            read_points(path)
