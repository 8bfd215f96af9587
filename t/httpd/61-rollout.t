#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Rollout: the same users everywhere, more of them as the share grows, changed by the flag file in every child while requests come in,
# and a broken file changes nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;
use ChatStream::Token;
use Time::HiRes qw(time);

my $CHILDREN = 4;
my @users = map { "user-$_" } 1 .. 60;

my $t = ChatStream::Test->new(children => $CHILDREN, start => 0);
my $flags = $t->dir . '/flags.json';
my $key = ChatStream::Token->new('HS256', dir => $t->dir);

sub write_flags
{
    my ($text) = @_;
    open my $handle, '>', "$flags.new" or die;
    print $handle $text;
    close $handle;
    rename "$flags.new", $flags or die;
    return;
}

open my $file, '>', $t->dir . '/conf/cohort' or die;
print $file "# testers\n\n  zoe  \n#nobody\nJ\xc3\xbcrgen\r\nlast";
close $file;

my $named = 'ChatStreamUserHeader X-User-Id';
sub profile
{
    my ($name, @directives) = @_;
    return chat("/$name", 'sse?tokens=1', $named, "ChatStreamProfile $name", @directives)
        . qq(<Location "/$name-health">\nSetHandler chatstream-health\nChatStreamProfile $name\n)
        . join('', map { "$_\n" } grep { /^ChatStream(?:Rollout|Enabled)/ } @directives) . "</Location>\n";
}

$t->httpd->{server_config} = "ChatStreamFlagFile $flags\n";
$t->httpd->{config} = patient() . "ChatStreamEnabled On\n"
    . profile('main') . profile('other') . profile('third')
    . profile('dark', 'ChatStreamEnabled Off')
    . profile('half', 'ChatStreamRollout 50')
    . profile('cohort', 'ChatStreamRollout 0', 'ChatStreamCohort anna bob', 'ChatStreamCohort @' . $t->dir . '/conf/cohort carl@example.com',
        'ChatStreamJWTKey HS256 ' . $key->file)
    . chat('/running', 'sse?script=wait', 'ChatStreamProfile running')
    . qq(<Location "/whole">\nSetHandler chatstream-complete\nChatStreamUpstream "\${UPSTREAM}/sse?tokens=1"\nChatStreamProfile main\n</Location>\n);
write_flags('{"rollout":10}');
$t->start;
$t->upstream->script(wait => "token a\nwait end\ndone\n");
my @pids = $t->children;

# HEAD goes through the gate and costs no generation.
sub look { my ($path, $user) = @_; return ("$path?message=hi", method => 'HEAD', keep_alive => 1, headers => [ 'X-User-Id' => $user ]) }

sub is_in
{
    my $answer = $t->stream(look(@_));
    my $status = $answer->status;
    $answer->close;
    return $status == 200;
}

sub who_is_in { my ($path) = @_; return grep { is_in($path, $_) } @users }

sub health { my ($name) = @_; return $t->request("/$name-health")->json }

# The same as one child sees it.
sub who_is_in_on
{
    my ($pid, $path) = @_;
    my @clients = $t->httpd->connect_to($pid, sub { map { $t->open(look($path, $_)) } @users });
    my @in = grep { $clients[$_]->status == 200 } 0 .. $#users;
    $_->close for @clients;
    return @users[@in];
}

# ---- 10, 25, 50 under load ---------------------------------------------------------------------------------------------------

my (%was_in, @fell_out);

# A burst of requests in real streams, as many as fit; whoever was let in once has to be let in for ever.
sub load
{
    my @some = map { $users[ rand @users ] } 1 .. 12;
    my @open = map { $t->open('/main?message=hi', headers => [ 'X-User-Id' => $_ ]) } @some;
    for my $i (0 .. $#some) {
        my $in = $open[$i]->status == 200;
        push @fell_out, $some[$i] if $was_in{ $some[$i] } && !$in;
        $was_in{ $some[$i] } ||= $in;
        $open[$i]->body;
        $open[$i]->close;
    }
    return;
}

my (%last, $sum);
for my $share (10, 25, 50) {
    my $started = time;
    write_flags(qq({"enabled":true,"rollout":$share}));
    my %seen;
    wait_until(sub {
        load();
        for my $pid (grep { !$seen{$_} } @pids) {
            my $answer = $t->stream_on($pid, '/main-health');
            $seen{$pid} = time - $started if $answer->json->{rollout} == $share;
            $answer->close;
        }
        return keys %seen == @pids;
    }, 10);
    is scalar(keys %seen), $CHILDREN, "$share %: in force in every child";
    diag sprintf '%d %%: after %.1f s at the latest', $share, (sort { $b <=> $a } values %seen)[0];
    load() for 1 .. 3;
    my @in = who_is_in('/main');
    my @on = map { join ' ', who_is_in_on($_, '/main') } @pids;
    is join('|', @on), join('|', ("@in") x $CHILDREN), "$share %: every child lets in the same users";
    my %in = map { $_ => 1 } @in;
    is join(' ', grep { !$in{$_} } sort keys %last), '', "$share %: whoever was in is in";
    cmp_ok scalar(@in), '>', scalar(keys %last), "$share %: and more (" . @in . ' of ' . @users . ')';
    %last = %in;
}
is "@fell_out", '', 'nobody fell out at any moment';
is join(' ', $t->children), "@pids", 'nothing was restarted';
my @half = who_is_in('/main');
is join(' ', who_is_in('/half')) ne "@half", 1, 'another profile draws other users';
isnt join(' ', who_is_in('/other')), "@half", 'and another one';
my ($outsider) = grep { !$last{$_} } @users;
my $outside = $t->request('/main?message=hi', headers => [ 'X-User-Id' => $outsider ]);
is $outside->status . ' ' . $outside->json->{code}, '404 streaming_disabled', 'who is not in gets the answer of a flag that is off';
is $t->request('/whole', json => { message => 'hi' }, headers => [ 'X-User-Id' => $outsider ])->status, 200, 'and the whole answer';

$t->graceful;
wait_until(sub { my %now = map { $_ => 1 } $t->children; !grep { $now{$_} } @pids }, 10);
is join(' ', who_is_in('/main')), "@half", 'a graceful restart changes nothing';

# ---- cohort ------------------------------------------------------------------------------------------------------------------

write_flags('{"rollout":0}');
ok wait_until(sub { health('main')->{rollout} == 0 }, 10), 'rollout 0';
is scalar(who_is_in('/main')), 0, 'lets in nobody';
ok is_in('/cohort', $_), "but $_ of the cohort" for qw(anna bob zoe last), "J\xc3\xbcrgen";
ok !is_in('/cohort', $_), "not '$_'" for 'Anna', 'nobody', '#nobody', '# testers', 'carl', 'ann';
sub with_token { return $t->stream('/cohort?message=hi', method => 'HEAD', headers => [ Authorization => 'Bearer ' . $key->sign({@_}) ])->status }
is with_token(sub => 'bob'), 200, 'by a token\'s subject';
is with_token(sub => 'c-17', email => 'carl@example.com'), 200, 'by its e-mail';
is with_token(sub => 'c-17', email => 'carla@example.com'), 404, 'and not by another';
is $t->stream('/cohort?message=hi&user_email=carl@example.com', method => 'HEAD')->status, 404, 'nor by a parameter';

# ---- members of the file -----------------------------------------------------------------------------------------------------

write_flags('{"enabled":true,"rollout":0,"profiles":{"main":{"rollout":100},"other":{"enabled":false,"rollout":100},"half":{}}}');
ok wait_until(sub { health('main')->{rollout} == 100 }, 10), 'members for a profile';
is scalar(who_is_in('/main')), 60, 'main: all';
is scalar(who_is_in('/other')), 0, 'other: off';
is scalar(who_is_in('/third')), 0, 'third is not named: what holds for all';
is scalar(who_is_in('/half')), 0, 'half says nothing: what holds for all';
is_deeply([ map { health($_)->{features}{sse_streaming} ? 1 : 0 } qw(main other third) ], [ 1, 0, 1 ], 'health of each says so');
is scalar(who_is_in('/dark')), 0, 'dark: not with rollout 0';

write_flags('{"enabled":true}');
ok wait_until(sub { health('half')->{rollout} == 50 }, 10), 'what the file does not say, the directives do';
is scalar(who_is_in('/dark')), 60, 'ChatStreamEnabled Off, and the file says on: on';
ok health('dark')->{features}{sse_streaming}, 'health too';
write_flags('{"rollout":0.5}');
ok wait_until(sub { health('main')->{rollout} == 0.5 }, 10), 'half a percent';
ok !health('dark')->{features}{sse_streaming}, 'dark is off again';

# ---- streams that run ----------------------------------------------------------------------------------------------------------

write_flags('{"rollout":100}');
ok wait_until(sub { health('main')->{rollout} == 100 }, 10), 'all again';
my $stream = $t->stream('/running?message=hi');
my $last = $stream->event_of('token')->{id};
my $dropped = $t->stream('/running?message=hi');
my $dropped_at = $dropped->event_of('token')->{id};
$dropped->close;
write_flags('{"enabled":false}');
ok wait_until(sub { !health('main')->{features}{sse_streaming} }, 10), 'off';
is $t->request('/running?message=hi')->status, 404, 'no new stream';
my @resumed = map { $t->stream("/running?last_event_id=$_") } $last, $dropped_at;
is join(' ', map { $_->status } @resumed), '200 200', 'those that ran can be resumed';
$t->upstream->signal('end');
is $_->next_event->{json}{type}, 'complete', 'and come to their end' for $stream, @resumed;
$_->close for $stream, @resumed;

# ---- a broken file -------------------------------------------------------------------------------------------------------------

write_flags('{"rollout":25}');
ok wait_until(sub { health('main')->{rollout} == 25 }, 10), 'a good state';
my @quarter = who_is_in('/main');
my $health = health('main');
is "$health->{status} $health->{flag_file}", 'ok ok', 'health: all is well';

my $told = qr/ChatStreamFlagFile: '\Q$flags\E': .*the last good state stays in force/;
my $times = 0;
my %broken = (
    'cut off'          => '{"rollout":50',
    'out of range'     => '{"rollout":101}',
    'a misspelt name'  => '{"roll-out":50}',
    'empty'            => '',
);
for my $name (sort keys %broken) {
    write_flags($broken{$name});
    $times++;
    ok wait_until(sub { (() = $t->error_log =~ /$told/g) >= $times }, 10), "$name: the error log says so";
    $health = health('main');
    is "$health->{status} $health->{flag_file} $health->{rollout}", 'degraded broken 25', "$name: health too; the last good state holds";
    is $t->request('/main-health')->status, 200, "$name: it still serves";
}
is join(' ', who_is_in('/main')), "@quarter", 'for the same users';
# By now every one but the last was looked at again and again, by all children.
is scalar(() = $t->error_log =~ /$told/g), $times, 'each was told once, whoever looked';
$t->expect_log($told);
write_flags('{"rollout":75}');
ok wait_until(sub { my $h = health('main'); $h->{flag_file} eq 'ok' && $h->{rollout} == 75 && $h->{status} eq 'ok' }, 10), 'mended: in force, and all is well';
unlink $flags;
ok wait_until(sub { health('half')->{rollout} == 50 && health('main')->{rollout} == 100 }, 10), 'no file: the directives are in force';
is health('main')->{flag_file}, 'ok', 'which is no mistake';
write_flags('{"enabled":false}');
ok wait_until(sub { !health('main')->{features}{sse_streaming} }, 10), 'a new one is found';
$t->check;

# ---- prefork -------------------------------------------------------------------------------------------------------------------

my $prefork = ChatStream::Test->new(mpm => 'prefork', children => 4, start => 0);
my $other = $prefork->dir . '/flags.json';
$prefork->httpd->{server_config} = "ChatStreamFlagFile $other\nChatStreamEnabled On\n";
$prefork->httpd->{config} = chat('/main', 'sse?tokens=1');
$prefork->start;
is $prefork->request('/main?message=hi')->status, 200, 'prefork: no file yet';
open $file, '>', $other or die;
print $file '{"enabled":false}';
close $file;
my $off = wait_until(sub { !$prefork->health->{features}{sse_streaming} }, 10);
ok $off, 'prefork: off, by a file that was not there at the start';
for my $pid ($prefork->children) {
    my $answer = $prefork->stream_on($pid, '/main?message=hi');
    is $answer->status, 404, 'prefork: in every child';
    $answer->close;
}
$prefork->done;
