#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# The feature flag: every spelling, from the environment too, what an answer without it looks like, and what goes on without it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use ChatStream::Test;

my $upstream = qq(ChatStreamUpstream "\${UPSTREAM}/sse?tokens=2"\n);

# A stream, the whole answer and a health page under one flag.
sub system_under
{
    my ($name, $flag) = @_;
    my $enabled = defined $flag ? "ChatStreamEnabled $flag" : '';
    return <<"END";
<Location "/$name">
    $enabled
</Location>
<Location "/$name/stream">
    SetHandler chatstream
</Location>
<Location "/$name/complete">
    SetHandler chatstream-complete
</Location>
<Location "/$name/health">
    SetHandler chatstream-health
</Location>
END
}

sub is_on
{
    my ($t, $name, $why, %ask) = @_;
    my $answer = $t->request("/$name/stream?message=hi", %ask);
    is $answer->status, 200, "$why: it streams";
    is $answer->header('content-type'), 'text/event-stream', "$why: as events";
    ok $t->request("/$name/health", %ask)->json->{features}{sse_streaming}, "$why: health says so";
    return;
}

sub is_off
{
    my ($t, $name, $why, %ask) = @_;
    my $answer = $t->request("/$name/stream?message=hi", %ask);
    is $answer->status, 404, "$why: there is no stream";
    is $answer->header('content-type'), 'application/problem+json', "$why: the answer is a problem document";
    my $problem = $answer->json;
    is $problem->{code}, 'streaming_disabled', "$why: with the code";
    is $problem->{status}, 404, "$why: and the status";
    is $answer->header('retry-after'), undef, "$why: and without a promise";
    my $complete = $t->request("/$name/complete", json => { message => 'hi' }, %ask);
    is $complete->status, 200, "$why: the whole answer goes on";
    is $complete->json->{finish_reason}, 'stop', "$why: to its end";
    my $health = $t->request("/$name/health", %ask);
    is $health->status, 200, "$why: that is no illness";
    ok !$health->json->{features}{sse_streaming}, "$why: health says it";
    return;
}

# ---- spellings -----------------------------------------------------------------------------------------------------------

my %spelling = (map({ $_ => 1 } qw(On on ON true True TRUE 1)), map({ $_ => 0 } qw(Off off OFF false False FALSE 0)));
my $t = ChatStream::Test->new(config => $upstream . join('', map { system_under("is-$_", $_) } sort keys %spelling)
    . system_under('unsaid', undef));
for my $word (sort keys %spelling) {
    $spelling{$word} ? is_on($t, "is-$word", $word) : is_off($t, "is-$word", $word);
}
is_off($t, 'unsaid', 'nothing said');

my $asked = $t->upstream->count('requests');
my $post = $t->request('/is-Off/stream', json => { message => 'hi' });
is $post->status, 404, 'POST gets the same answer';
my $head = $t->request('/is-Off/stream?message=hi', method => 'HEAD');
is $head->status, 404, 'HEAD too';
is $t->request('/is-Off/stream')->status, 404, 'before anything else is looked at: a missing message';
is $t->upstream->count('requests'), $asked, 'the upstream is not asked';
$t->check;

for my $wrong ('yes', '2', '""', '${ENABLE_STREAMING}') {
    my $bad = ChatStream::Test->new(start => 0, upstreams => [], config => "ChatStreamEnabled $wrong\n");
    my ($valid, $said) = $bad->httpd->check_config;
    ok !$valid, "$wrong is no flag";
    like $said, qr/ChatStreamEnabled/, 'and the error names the directive';
}

# ---- from the environment ------------------------------------------------------------------------------------------------

for my $value (qw(true false)) {
    my $env = ChatStream::Test->new(
        env    => { ENABLE_STREAMING => $value },
        http2  => 1,
        config => $upstream . system_under('chat', '${ENABLE_STREAMING}'),
    );
    my $check = $value eq 'true' ? \&is_on : \&is_off;
    $check->($env, 'chat', "ENABLE_STREAMING=$value");
    $check->($env, 'chat', "ENABLE_STREAMING=$value, HTTP/2", http2 => 1);
    $env->graceful;
    $check->($env, 'chat', "ENABLE_STREAMING=$value, after a graceful restart");
    $env->check;
}

for my $mpm (qw(worker prefork)) {
    my $other = ChatStream::Test->new(mpm => $mpm, $mpm eq 'prefork' ? (children => 4) : (),
        config => $upstream . system_under('on', 'On') . system_under('off', 'Off'));
    is_on($other, 'on', $mpm);
    is_off($other, 'off', $mpm);
    $other->check;
}

done_testing();
